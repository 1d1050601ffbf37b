"""What a pipeline is made of, and the one place that makes its parts.

Wrappers are put around the parts in one order, innermost first: `WRAPPERS`. What stands later in it sees what stands
before as a plain stack, so a CUDA graph holds layers whose matrices have their side paths, and the step cache decides
outside of graphs which of them run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch

from pipeline.checkpoint.components import Checkpoint
from pipeline.checkpoint.sources import locate
from pipeline.device import current
from pipeline.driver import check_capability
from pipeline.formats.number_format import NumberFormat
from pipeline.model.autoencoder import Autoencoder, Decoder
from pipeline.model.scheduler import Schedule
from pipeline.model.text_encoder import TextEncoder, TextFeatures
from pipeline.model.transformer import Transformer
from pipeline.wrappers import graphed_stack, prompt_cache, step_cache


@dataclass
class Parts:
    """What a pipeline works with; wrappers change them in place."""

    text_encoder: TextEncoder
    transformer: Transformer
    autoencoder: Autoencoder
    schedule: Schedule
    device: torch.device
    # By part (text_encoder, transformer, vae): entered while its weights have to be on the device; without, they are.
    presence: dict[str, Callable[[], AbstractContextManager[object]]] = field(default_factory=dict)
    # Features of a prompt for a `Drawing.cache_scope`: the same in each, but who remembers them keeps scopes apart.
    encode: Callable[[str, str], TextFeatures] = field(init=False)

    def __post_init__(self) -> None:
        self.encode = lambda prompt, _scope: self.text_encoder.encode(prompt)


WRAPPERS: tuple[Callable[["Parts", "Recipe"], None], ...] = (
    prompt_cache.wrap,
    graphed_stack.wrap,
    step_cache.wrap,
)


@dataclass(frozen=True)
class Recipe:
    """How to make a pipeline.

    Attributes:
        source: of the checkpoint, as `locate` takes it.
        device: where the weights go and the work is done.
        dtype: of weights and activations.
        vae: source of another VAE, or of another checkpoint whose VAE to take.
        number_format: of the matrices of transformer and text encoder; None: as they are stored.

    Raises:
        QuantizationError: the device can't run the format, or not beside `dtype`.
        UnfitGpuError: the fused parts can't run on the device.
    """

    source: str | Path
    device: torch.device
    dtype: torch.dtype
    vae: str | Path | None
    number_format: NumberFormat | None

    def __post_init__(self) -> None:
        if self.fused:
            check_capability(self.device)
        if self.number_format:
            self.number_format.check(self.device, self.dtype)

    @property
    def fused(self) -> bool:
        """Whether the parts are those of `pipeline.cuda`; else they are the reference."""
        return self.device.type == "cuda" and self.dtype == torch.bfloat16

    def build(self) -> Parts:
        """Load the checkpoint and make the parts; raises CheckpointError."""
        checkpoint = Checkpoint(locate(self.source), None if self.vae is None else locate(self.vae))
        with current(self.device):
            parts = _fused(checkpoint, self) if self.fused else _plain(checkpoint, self)
            for wrap in WRAPPERS:
                wrap(parts, self)
        return parts


def _plain(checkpoint: Checkpoint, recipe: Recipe) -> Parts:
    device, dtype = recipe.device, recipe.dtype
    return Parts(
        TextEncoder(checkpoint.text_encoder.load(device, dtype), checkpoint.tokenizer),
        checkpoint.transformer.load(device, dtype),
        checkpoint.autoencoder.load(device, dtype),
        checkpoint.schedule,
        device,
    )


def _fused(checkpoint: Checkpoint, recipe: Recipe) -> Parts:
    # They need Triton, which comes with torch's CUDA builds only.
    from pipeline.cuda.text_encoder import fuse
    from pipeline.cuda.transformer import FusedTransformer
    from pipeline.cuda.vae import FusedDecoder

    # Weights stay in the files' pages until they are converted, fused and perhaps quantised on the GPU, layer by layer:
    # neither RAM nor a small card's memory has room for the whole in float32, or bfloat16.
    cpu, device = torch.device("cpu"), recipe.device
    autoencoder = checkpoint.autoencoder.load(device, recipe.dtype)
    autoencoder.decoder = FusedDecoder(cast("Decoder", autoencoder.decoder))
    text_encoder = TextEncoder(checkpoint.text_encoder.load(cpu, dtype=None), checkpoint.tokenizer)
    fuse(text_encoder, device, recipe.number_format)
    plain = checkpoint.transformer.load(cpu, dtype=None)
    transformer = FusedTransformer(plain, device, recipe.number_format)
    return Parts(text_encoder, transformer, autoencoder, checkpoint.schedule, device)
