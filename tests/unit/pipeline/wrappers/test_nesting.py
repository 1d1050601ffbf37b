"""Wrappers nest: every two that stand around a pipeline draw the pictures that it draws without them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import recipe
from pipeline.pipeline import ZImagePipeline
from pipeline.wrappers import step_cache
from support.wrapping import NAMES, PAIRS, LayerByLayer, Wrapper, layer_by_layer

ASKED = {"height": 64, "width": 80, "num_images": 2, "num_inference_steps": 3, "guidance_scale": 2.0}


def draw(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *wrappers: Wrapper, cache: object = None
) -> tuple[ZImagePipeline, Tensor]:
    monkeypatch.setattr(recipe, "WRAPPERS", wrappers)
    pipe = ZImagePipeline.from_pretrained(checkpoint, device="cpu", dtype=torch.float32)
    return pipe, torch.cat([pipe("a cat", seed=seed, step_cache=cache, **ASKED) for seed in (1, 7)])  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
def test_every_two_wrappers_draw_the_plain_pictures(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, pair: tuple[Wrapper, Wrapper]
) -> None:
    _, expected = draw(checkpoints["small"], monkeypatch)
    _, found = draw(checkpoints["small"], monkeypatch, *pair)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "wrappers",
    [pytest.param(pair, id=name) for pair, name in zip(PAIRS, NAMES, strict=True) if step_cache.wrap in pair],
)
def test_steps_are_skipped_around_and_within_every_other_wrapper(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, wrappers: tuple[Wrapper, Wrapper]
) -> None:
    _, plain = draw(checkpoints["small"], monkeypatch)
    _, expected = draw(checkpoints["small"], monkeypatch, step_cache.wrap, cache={"mask": "101"})
    _, found = draw(checkpoints["small"], monkeypatch, *wrappers, cache={"mask": "101"})
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_what_is_wrapped_first_is_innermost(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, _ = draw(checkpoints["small"], monkeypatch, layer_by_layer, layer_by_layer)
    outer = pipe.transformer.stack
    assert isinstance(outer, LayerByLayer)
    assert isinstance(outer._stack, LayerByLayer)
    layers, evaluations = pipe.transformer.params.num_layers, 4 * 3  # images and seeds, steps
    assert outer.runs == outer._stack.runs == layers * evaluations
