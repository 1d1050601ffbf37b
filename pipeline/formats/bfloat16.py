"""bfloat16: what a weight is in that no other format takes."""

from torch import Tensor, nn

from pipeline.formats.number_format import Matrix


class BFloat16Matrix(Matrix):
    """`x @ weight.T` in bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """From `[…, in]` to `[…, out]`."""
        return nn.functional.linear(x, self.weight)
