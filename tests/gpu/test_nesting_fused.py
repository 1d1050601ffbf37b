"""Wrappers nest around fused parts too, where small pictures are replayed from CUDA graphs and large ones are not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import ZImagePipeline, memory_sizes, recipe
from pipeline.wrappers import step_cache
from support.bfloat16_checkpoint import write_bfloat16_checkpoint
from support.wrapping import NAMES, PAIRS, Wrapper

ASKED = {"height": 64, "width": 80, "num_images": 2, "num_inference_steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    write_bfloat16_checkpoint(root)
    return root


def draw(
    checkpoint: Path, quantization: str, monkeypatch: pytest.MonkeyPatch, *wrappers: Wrapper, cache: object = None
) -> Tensor:
    monkeypatch.setattr(recipe, "WRAPPERS", wrappers)
    pipe = ZImagePipeline.from_pretrained(checkpoint, device="cuda", quantization=quantization)
    asked = {**ASKED, "step_cache": cache}
    small = [pipe("a cat", seed=seed, **asked) for seed in (1, 7)]  # type: ignore[arg-type]
    monkeypatch.setattr(memory_sizes, "GRAPH_TOKENS", 0)
    return torch.cat([*small, pipe("a cat", **asked)])  # type: ignore[arg-type]


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
def test_every_two_wrappers_draw_the_plain_pictures(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, pair: tuple[Wrapper, Wrapper]
) -> None:
    expected = draw(checkpoint, quantization, monkeypatch)
    monkeypatch.undo()
    assert torch.equal(draw(checkpoint, quantization, monkeypatch, *pair), expected)


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, id=name) for pair, name in zip(PAIRS, NAMES, strict=True) if step_cache.wrap in pair],
)
def test_steps_are_skipped_around_and_within_every_other_wrapper(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, pair: tuple[Wrapper, Wrapper]
) -> None:
    expected = draw(checkpoint, quantization, monkeypatch, step_cache.wrap, cache={"mask": "101"})
    monkeypatch.undo()
    assert torch.equal(draw(checkpoint, quantization, monkeypatch, *pair, cache={"mask": "101"}), expected)
