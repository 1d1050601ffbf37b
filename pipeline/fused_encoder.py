"""The text encoder for CUDA: replayed from CUDA graphs, its norms one kernel each, with fp8 weights where asked for."""

import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from pipeline.cuda_graphs import Graphs
from pipeline.kernels.rows import quantize_rows
from pipeline.quantization import Fp8Matrix, fits
from pipeline.text_encoder import TextEncoder

TOKEN_MULTIPLE = 32  # lengths are filled up to one, so that few graphs serve all prompts


class Fp8Linear(nn.Module):
    """A linear layer without bias in fp8 that takes and gives bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.matrix = Fp8Matrix(weight)

    def forward(self, x: Tensor) -> Tensor:
        """From `[…, in]` to `[…, out]`."""
        y: Tensor = self.matrix(quantize_rows(x.contiguous()))
        return y.view(*x.shape[:-1], -1)


def fuse(encoder: TextEncoder, device: torch.device, *, quantize: bool) -> None:
    """Bring the encoder to `device`, its matrices in fp8 if asked for, and have it run from CUDA graphs."""
    for parent in list(encoder.model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Qwen3RMSNorm):
                setattr(parent, name, _norm(child))
            elif quantize and isinstance(child, nn.Linear) and child.bias is None and fits(child.weight):
                setattr(parent, name, Fp8Linear(child.weight.to(device)))
    nn.Module.to(encoder.model, device)
    graphs = Graphs(encoder.run)

    def run(tokens: Tensor) -> Tensor:
        # Causal attention lets no token see a later one, so what fills up the end changes nothing before it.
        count = tokens.shape[1]
        return graphs(nn.functional.pad(tokens, (0, -count % TOKEN_MULTIPLE)))[:, :count]

    encoder.run = run


def _norm(plain: Qwen3RMSNorm) -> nn.RMSNorm:
    """The same norm as torch has it, which is one kernel where the other is eight."""
    norm = nn.RMSNorm(plain.weight.shape, eps=plain.variance_epsilon, device="meta")
    norm.weight = plain.weight
    return norm
