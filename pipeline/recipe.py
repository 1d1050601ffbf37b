"""What a pipeline is made of, and the one place that makes its parts.

Wrappers are put around the parts in one order, innermost first: `WRAPPERS`. What stands later in it sees what stands
before as a plain stack, so a CUDA graph holds layers whose matrices have their side paths, and the step cache decides
outside of graphs which of them run.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import torch

from pipeline.checkpoint.components import Checkpoint
from pipeline.checkpoint.files import WeightFiles
from pipeline.checkpoint.sources import locate
from pipeline.device import current, free_memory
from pipeline.driver import check_capability
from pipeline.formats.number_format import NumberFormat
from pipeline.formats.registry import find_stored
from pipeline.memory_plan import RESIDENT, BudgetError, Plan, plan, plan_for_free
from pipeline.memory_sizes import Shape, Sizes
from pipeline.model.autoencoder import Autoencoder, Decoder
from pipeline.model.scheduler import Schedule
from pipeline.model.text_encoder import TextEncoder, TextFeatures
from pipeline.model.transformer import Transformer
from pipeline.wrappers import banded_decoder, graphed_stack, prompt_cache, residency, step_cache
from pipeline.wrappers.residency import Placement

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """What a pipeline works with; wrappers change them in place."""

    text_encoder: TextEncoder
    transformer: Transformer
    autoencoder: Autoencoder
    schedule: Schedule
    device: torch.device
    placement: Placement | None = None  # of their weights; None: they are all on the device
    # By part (text_encoder, transformer, vae): entered while its weights have to be on the device; without, they are.
    presence: dict[str, Callable[[], AbstractContextManager[object]]] = field(default_factory=dict)
    # Features of a prompt for a `Drawing.cache_scope`: the same in each, but who remembers them keeps scopes apart.
    encode: Callable[[str, str], TextFeatures] = field(init=False)

    def __post_init__(self) -> None:
        self.encode = lambda prompt, _scope: self.text_encoder.encode(prompt)

    @property
    def plan(self) -> Plan | None:
        """Which weights stay, come and go; None: it was not made, and all stay."""
        return self.placement.plan if self.placement else None


WRAPPERS: tuple[Callable[["Parts", "Recipe"], None], ...] = (
    residency.wrap,
    banded_decoder.wrap,
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
        vram_budget: bytes that tensors may take on the device; None: all that is free, if that is not enough for all
            weights.
        residency: of the parts for which it is settled, as in `memory_plan`.

    Raises:
        QuantizationError: the device can't run the format, or not beside `dtype`.
        UnfitGpuError: the fused parts can't run on the device.
    """

    source: str | Path
    device: torch.device
    dtype: torch.dtype
    vae: str | Path | None
    number_format: NumberFormat | None
    vram_budget: int | None = None
    residency: Mapping[str, str] | None = None

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
        """Load the checkpoint and make the parts.

        Raises:
            CheckpointError: as `Checkpoint`.
            BudgetError: the budget is too little.
        """
        checkpoint = Checkpoint(locate(self.source), None if self.vae is None else locate(self.vae))
        with current(self.device):
            placement = Placement(self._plan(checkpoint), self.device)
            with placement.loading():
                parts = (_fused if self.fused else _plain)(checkpoint, self, placement)
            for wrap in WRAPPERS:
                wrap(parts, self)
        return parts

    def _plan(self, checkpoint: Checkpoint) -> Plan:
        """Decide which weights stay, come and go."""
        sizes = Sizes.of(
            Shape.of(
                checkpoint.transformer.module.params,
                checkpoint.text_encoder.module.params,
                checkpoint.autoencoder.module.params,
            ),
            value_bytes=self.dtype.itemsize,
            quantized_bytes=self._quantized_bytes(checkpoint.transformer.files),
            text_quantized_bytes=self._quantized_bytes(checkpoint.text_encoder.files),
            fused=self.fused,
        )
        if self.vram_budget is None and not self.residency and self.device.type == "cuda":
            made = _for_free(sizes, free_memory())
        else:
            made = plan(sizes, self.vram_budget, residency=self.residency)
        if made.offloads or made.budget_bytes is not None:
            log.info("residency: %s", made)
        return made

    def _quantized_bytes(self, files: WeightFiles) -> int | None:
        """Bytes of a number of the large matrices that are in a number format here; None: they are in none."""
        stored = next((known for tensor in files.tensors.values() if (known := find_stored(tensor.dtype))), None)
        if stored and not (self.fused and stored.runs_on(self.device)):
            stored = None
        chosen = self.number_format or stored
        return chosen.rows.dtype.itemsize if chosen else None


def _for_free(sizes: Sizes, free: int) -> Plan:
    """The plan for a GPU's free memory, in bytes."""
    try:
        made = plan_for_free(sizes, free)
    except BudgetError as error:
        log.warning("the GPU's free memory is too little: %s", error)
        return plan(sizes, None)  # others may free some before it runs out
    if made.offloads:
        log.warning("the GPU has too little free memory for all weights, so some come and go")
    return made


def _plain(checkpoint: Checkpoint, recipe: Recipe, placement: Placement) -> Parts:
    device, dtype = recipe.device, recipe.dtype
    return Parts(
        TextEncoder(checkpoint.text_encoder.load(placement.first_place("text_encoder"), dtype), checkpoint.tokenizer),
        checkpoint.transformer.load(placement.first_place("transformer"), dtype),
        checkpoint.autoencoder.load(placement.first_place("vae"), dtype),
        checkpoint.schedule,
        device,
        placement,
    )


def _fused(checkpoint: Checkpoint, recipe: Recipe, placement: Placement) -> Parts:
    # They need Triton, which comes with torch's CUDA builds only.
    from pipeline.cuda.text_encoder import fuse
    from pipeline.cuda.transformer import KEPT_TABLES, FusedTransformer
    from pipeline.cuda.vae import FusedDecoder

    # Weights stay in the files' pages until they are converted, fused and perhaps quantised on the GPU, layer by layer:
    # neither RAM nor a small card's memory has room for the whole in float32, or bfloat16.
    cpu, device, number_format, plan = torch.device("cpu"), recipe.device, recipe.number_format, placement.plan
    autoencoder = checkpoint.autoencoder.load(device, recipe.dtype)
    autoencoder.decoder = FusedDecoder(cast("Decoder", autoencoder.decoder))
    text_encoder = TextEncoder(checkpoint.text_encoder.load(cpu, dtype=None), checkpoint.tokenizer)
    settle_text = partial(placement.settle, "text_encoder")
    fuse(text_encoder, device, number_format, settle_text, resident=plan.text_encoder == RESIDENT)
    plain = checkpoint.transformer.load(cpu, dtype=None)
    transformer = FusedTransformer(
        plain,
        device,
        number_format,
        partial(placement.settle, "transformer"),
        recorded=plan.transformer == RESIDENT,
        kept_tables=1 if plan.offloads else KEPT_TABLES,
    )
    return Parts(text_encoder, transformer, autoencoder, checkpoint.schedule, device, placement)
