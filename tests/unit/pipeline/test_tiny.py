"""The bundled model: small enough to ship, and the same picture in diffusers."""

import math

import pytest
import torch

from pipeline import TINY_CHECKPOINT
from support.parity import Pair, load_pair


@pytest.fixture(scope="module")
def tiny() -> Pair:
    return load_pair(TINY_CHECKPOINT)


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in TINY_CHECKPOINT.rglob("*") if file.is_file()) <= 24_000_000


@pytest.mark.parametrize(
    ("prompt", "height", "width"),
    [
        ("a red circle left of a blue square on a white background", 128, 128),
        ("画用紫色写的“1E”,黄色背景", 128, 192),
        ("three yellow hearts on black", 256, 256),
    ],
)
def test_diffusers_draws_the_same(tiny: Pair, prompt: str, height: int, width: int) -> None:
    asked = {"prompt": prompt, "height": height, "width": width, "num_inference_steps": 8, "guidance_scale": 0.0}
    ours = tiny.ours(seed=11, **asked)[0].double()
    theirs = tiny.theirs(generator=torch.Generator().manual_seed(11), output_type="pt", **asked).images[0]

    expected = (theirs.double() * 255).round().permute(1, 2, 0)
    assert expected.std() > 20  # a picture, not a plain ground
    error = (ours - expected).square().mean().item()
    psnr = math.inf if error == 0 else 10 * math.log10(255**2 / error)
    assert psnr >= 45
