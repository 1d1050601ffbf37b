"""The text encoder for CUDA: replayed from CUDA graphs, with weights in a number format where asked for."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.cuda.attention import attend_by_first
from pipeline.cuda.graphs import Graphs
from pipeline.cuda.kernels.rows import quantize_rows
from pipeline.formats.number_format import Matrix, NumberFormat
from pipeline.formats.quantizing import format_of, matrix, quantize_, settle_
from pipeline.formats.row_format import RowFormat
from pipeline.model.text_encoder import TextEncoder

TOKEN_MULTIPLE = 32  # lengths are filled up to one, so that few graphs serve all prompts


class QuantizedLinear(Matrix):
    """A linear layer without bias, its weight in a number format, that takes and gives bfloat16."""

    def __init__(self, linear: nn.Linear, name: str) -> None:
        super().__init__()
        self.matrix = matrix(linear)
        self.parts = {name: slice(None)}

    def forward(self, x: Tensor) -> Tensor:
        """From `[…, in]` to `[…, out]`."""
        y: Tensor = self.matrix(quantize_rows(x.contiguous(), cast("RowFormat", self.matrix.rows)))
        return y.view(*x.shape[:-1], -1)


def fuse(
    encoder: TextEncoder,
    device: torch.device,
    number_format: NumberFormat | None,
    settle: Callable[[int, nn.Module], None] | None = None,
    *,
    resident: bool = True,
) -> None:
    """Bring the encoder to `device` and have it run there.

    Its weights become bfloat16 there. Those in a number format stay so, and the others that `number_format` takes
    become so.

    Args:
        encoder: changed in place.
        device: where to.
        number_format: of the matrices that it takes.
        settle: called with the number of each layer and the layer, once it is there; it may move its weights away.
        resident: whether it leaves them there. If not, the table of token embeddings stays where it is, and nothing is
            replayed from CUDA graphs, which read weights where those lay when they were recorded.
    """
    for i, layer in enumerate(encoder.model.layers):
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                if number_format:
                    quantize_(module, f"layers.{i}.{name}", number_format, device)
                settle_(module, device)
                if format_of(module):
                    layer.set_submodule(name, QuantizedLinear(module, name.rpartition(".")[2]))
        settle_(layer, device)
        if settle:
            settle(i, layer)
    settle_(encoder.model.embed_tokens, device if resident else torch.device("cpu"))
    plain = encoder.run

    def attend(tokens: Tensor) -> Tensor:
        return attend_by_first("earlier tokens", lambda: plain(tokens))

    encode = Graphs(attend) if resident else attend

    def run(tokens: Tensor) -> Tensor:
        # Causal attention lets no token see a later one, so what fills up the end changes nothing before it.
        count = tokens.shape[1]
        return encode(nn.functional.pad(tokens, (0, -count % TOKEN_MULTIPLE)))[:, :count]

    encoder.run = run
