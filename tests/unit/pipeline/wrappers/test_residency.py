"""Weights that come and go: the pictures are those of resident weights, to the bit, whatever moves.

"Device" and host memory are two sets of buffers of the CPU here; copies between them happen as late as they may.
"""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.formats.registry import find
from pipeline.memory_plan import LAYERS, RESIDENT, WHOLE, BudgetError, Plan, plan
from pipeline.memory_sizes import Shape, Sizes
from pipeline.pipeline import ZImagePipeline
from pipeline.recipe import Recipe, _for_free
from pipeline.wrappers import residency
from pipeline.wrappers.residency import Lane, Placement, pin

CPU = torch.device("cpu")
ASKED = {"height": 64, "width": 80, "num_images": 2, "num_inference_steps": 3, "guidance_scale": 2.0}
STEP_CACHES = (None, {"mask": "101"}, {"warmup": 1, "threshold": 0.9, "last": 1})
LAYER_COUNT = 4  # of the checkpoint "wide"


class LateLane(Lane):
    """Copies when somebody waits for it, and not before; until then the buffer holds what it did."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.queued: list[tuple[Tensor, Tensor]] = []
        self.copies = 0

    def copy(self, target: Tensor, source: Tensor, _after: Any) -> int:
        self.copies += 1
        self.queued.append((target, source))
        return self.copies

    def wait(self, mark: int) -> None:
        while self.copies - len(self.queued) < mark:
            target, source = self.queued.pop(0)
            target.copy_(source)


@pytest.fixture(scope="module")
def recipe(checkpoints: dict[str, Path]) -> Recipe:
    return Recipe(checkpoints["wide"], CPU, torch.float32, vae=None, number_format=find(None))


@pytest.fixture(scope="module")
def resident(recipe: Recipe) -> ZImagePipeline:
    return ZImagePipeline(recipe.build())


@pytest.fixture(scope="module")
def expected(resident: ZImagePipeline) -> list[Tensor]:
    return [draw(resident, step_cache=step_cache) for step_cache in STEP_CACHES]


def moving(recipe: Recipe, lane: Lane | None = None, **planned: Any) -> ZImagePipeline:
    """A pipeline whose weights come and go as a plan says."""
    parts = recipe.build()
    params = parts.transformer.params, parts.text_encoder.model.params, parts.autoencoder.params
    made = Plan(Sizes.of(Shape.of(*params), value_bytes=4, fused=False), **planned)
    parts.placement = Placement(made, CPU, lane)
    parts.placement.install(parts)
    return ZImagePipeline(parts)


def draw(pipe: ZImagePipeline, **asked: Any) -> Tensor:
    return torch.cat([pipe(prompt, **{**ASKED, **asked}) for prompt in ("a cat", "a dog")])


@pytest.mark.parametrize(
    "planned",
    [
        {"transformer": LAYERS},
        {"transformer": LAYERS, "transformer_layers_resident": 1, "text_encoder": LAYERS, "vae": WHOLE},
        {"transformer": WHOLE, "text_encoder": WHOLE, "vae": WHOLE},
        {"text_encoder": LAYERS, "text_layers_resident": 1},
    ],
)
def test_every_residency_draws_the_pictures_of_resident_weights(
    recipe: Recipe, expected: list[Tensor], planned: dict[str, Any]
) -> None:
    pipe = moving(recipe, LateLane(), **planned)
    for step_cache, pictures in zip(STEP_CACHES, expected, strict=True):
        assert torch.equal(draw(pipe, step_cache=step_cache), pictures)


def test_layers_are_fetched_one_ahead_and_those_that_are_skipped_are_not(recipe: Recipe) -> None:
    lane = LateLane()
    pipe = moving(recipe, lane, transformer=LAYERS, transformer_layers_resident=1)
    copies = []
    for mask in ("111", "101"):
        before = lane.copies
        pipe("a cat", height=64, width=64, num_inference_steps=3, step_cache={"mask": mask})
        copies.append(lane.copies - before)
    # When a step ends the two buffers hold the last two of three layers; the next one lacks the first, then the last.
    assert copies == [3 + 2 + 2, 3 + 1 + 1]


def test_a_picture_that_is_stopped_leaves_nothing_behind(recipe: Recipe, expected: list[Tensor]) -> None:
    pipe = moving(recipe, LateLane(), transformer=LAYERS, text_encoder=WHOLE, vae=WHOLE)

    def stop(step: int, _total: int) -> None:
        if step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pipe("a cat", on_step=stop, **ASKED)  # type: ignore[arg-type]
    assert torch.equal(draw(pipe), expected[0])


def test_a_budget_makes_the_plan_and_is_kept(checkpoints: dict[str, Path], expected: list[Tensor]) -> None:
    def load(budget: str | int) -> ZImagePipeline:
        return ZImagePipeline.from_pretrained(checkpoints["wide"], "cpu", torch.float32, vram_budget=budget)

    with pytest.raises(BudgetError, match="too little: the least") as refusal:
        load("1MiB")
    pipe = load(refusal.value.least_bytes)
    assert pipe.plan is not None
    assert pipe.plan.offloads
    assert torch.equal(draw(pipe), expected[0])
    with pytest.raises(ValueError, match=r"at most .* pixels can be drawn"):
        pipe("a cat", height=4096, width=4096)
    roomy = load("64GiB").plan
    assert roomy is not None
    assert set(roomy.residency.values()) == {RESIDENT}


def test_a_card_that_others_use_gets_a_plan_for_what_is_free(caplog: pytest.LogCaptureFixture) -> None:
    wanted = plan(Sizes.of(), None)
    assert _for_free(Sizes.of(), 40 * 2**30) == wanted
    held = _for_free(Sizes.of(), 10 * 2**30)
    assert held.offloads
    assert held.fits()
    assert _for_free(Sizes.of(), 2**30) == wanted  # as before there were plans: it may be free by the time it is needed
    assert "too little" in caplog.text


@pytest.mark.parametrize("wrong", [{"unet": "whole"}, {"vae": "layers"}, {"transformer": "gone"}])
def test_a_residency_without_a_meaning_is_refused(checkpoints: dict[str, Path], wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="residency"):
        ZImagePipeline.from_pretrained(checkpoints["wide"], "cpu", torch.float32, residency=wrong)


def test_memory_that_the_host_refuses_to_pin_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def cudaHostRegister(self, *_: int) -> int:  # noqa: N802 - CUDA's name
            return 2

        def cudaGetErrorString(self, _error: int) -> str:  # noqa: N802
            return "out of memory"

    monkeypatch.setattr(torch.cuda, "cudart", Refusing)
    residency._tell_refusal.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pin(torch.empty(8, dtype=torch.uint8), CPU)
    assert [record.message.count("refuses pinned memory (out of memory)") for record in caplog.records] == [1]
