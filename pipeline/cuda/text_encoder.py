"""The text encoder for CUDA: replayed from CUDA graphs, with fp8 weights where asked for."""

import torch
from torch import Tensor, nn

from pipeline.cuda.graphs import Graphs
from pipeline.cuda.kernels.rows import quantize_rows
from pipeline.formats.fp8 import is_fp8, matrix, quantize_, settle_
from pipeline.model.text_encoder import TextEncoder

TOKEN_MULTIPLE = 32  # lengths are filled up to one, so that few graphs serve all prompts


class Fp8Linear(nn.Module):
    """A linear layer without bias in fp8 that takes and gives bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.matrix = matrix(linear)

    def forward(self, x: Tensor) -> Tensor:
        """From `[…, in]` to `[…, out]`."""
        y: Tensor = self.matrix(quantize_rows(x.contiguous()))
        return y.view(*x.shape[:-1], -1)


def fuse(encoder: TextEncoder, device: torch.device, *, quantize: bool) -> None:
    """Bring the encoder to `device` and have it run from CUDA graphs.

    Its weights become bfloat16 there. Those in fp8 stay so, and with `quantize` the others that take it become so.
    """
    for name, module in list(encoder.model.named_modules()):
        if isinstance(module, nn.Linear):
            if quantize:
                quantize_(module, name, device)
            settle_(module, device)
            if is_fp8(module):
                encoder.model.set_submodule(name, Fp8Linear(module))
    settle_(encoder.model, device)
    graphs = Graphs(encoder.run)

    def run(tokens: Tensor) -> Tensor:
        # Causal attention lets no token see a later one, so what fills up the end changes nothing before it.
        count = tokens.shape[1]
        return graphs(nn.functional.pad(tokens, (0, -count % TOKEN_MULTIPLE)))[:, :count]

    encoder.run = run
