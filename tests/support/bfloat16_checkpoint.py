"""A small random checkpoint stored in bfloat16, as Turbo is, for tests that compare weights to the bit."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint.random import SIZES, write_random_checkpoint


def write_bfloat16_checkpoint(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", dataclasses.replace(SIZES["tiny"], dtype=torch.bfloat16))
        write_random_checkpoint(root)
