"""What this very GPU gives at Z-Image's shapes: the matrix products and the attention of 8 forwards, and nothing else.

Cards of one kind differ by some per cent, and under load a card's power cap binds, so `bench.pipeline` measures this in
the same run and in the same way. It is no bound: products that follow each other without a
pause draw more power. In a picture, on another card (`bench.profile`), they took 4 to 5 % less in fp8, and in bf16
between 1 % less (after idling) and 1.5 % more (under load).
"""

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from pipeline.cuda.attention import BACKENDS
from pipeline.cuda.graphs import Graphs
from pipeline.cuda.kernels.rows import quantize_rows
from pipeline.formats.bfloat16 import BFloat16Matrix
from pipeline.formats.number_format import Matrix, NumberFormat
from pipeline.formats.row_format import Rows
from pipeline.model.layers import attend

DIM, HIDDEN, HEADS = 3840, 10240, 30  # of the released transformer
BLOCKS = 32  # with a timestep: layers and noise refiners
SHAPES = ((3 * DIM, DIM), (DIM, DIM), (2 * HIDDEN, DIM), (DIM, HIDDEN))  # [out, in] of qkv, out, w1 + w3, w2


class Ceiling:
    """Products and attention of one forward, from random numbers.

    Args:
        tokens: of the stream, image and caption.
        number_format: of the products; None: bfloat16.
    """

    def __init__(self, tokens: int, number_format: NumberFormat | None) -> None:
        def random(*shape: int) -> Tensor:
            return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

        weights = [random(*shape) * shape[1] ** -0.5 for shape in SHAPES]
        inputs = {width: random(1, tokens, width) for width in (DIM, HIDDEN)}
        self.products: list[Matrix] = [BFloat16Matrix(weight) for weight in weights]
        self.inputs: dict[int, Tensor | Rows] = {**inputs}
        if number_format:
            rows = number_format.rows
            self.products = [number_format.matrix(rows.quantize(weight)) for weight in weights]
            self.inputs = {width: quantize_rows(x, rows) for width, x in inputs.items()}
        self.qkv = random(1, tokens, 3 * DIM)
        self.graphs = Graphs(self._forward)

    @torch.inference_mode()
    def __call__(self, forwards: int) -> None:
        """Do the products and the attention of so many forwards, and wait for their end."""
        for _ in range(forwards):
            self.graphs(self.qkv)
        torch.cuda.synchronize()

    def _forward(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.view(*qkv.shape[:2], 3, HEADS, -1).unbind(2)
        with sdpa_kernel(list(BACKENDS), set_priority=True):
            for _ in range(BLOCKS):
                attended = attend(q, k, v, None)
                for product, (_, width) in zip(self.products, SHAPES, strict=True):
                    product(self.inputs[width])
        return attended
