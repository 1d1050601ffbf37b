"""Both implementations, loaded from one checkpoint, and how far apart their answers are."""

from pathlib import Path
from typing import NamedTuple

import diffusers
import torch

from pipeline import ZImagePipeline


class Pair(NamedTuple):
    """The same checkpoint, loaded by us and by diffusers."""

    path: Path
    ours: ZImagePipeline
    theirs: diffusers.ZImagePipeline


def load_pair(path: Path) -> Pair:
    ours = ZImagePipeline.from_pretrained(path, device="cpu", dtype=torch.float32)
    theirs = diffusers.ZImagePipeline.from_pretrained(path, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    return Pair(path, ours, theirs)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())
