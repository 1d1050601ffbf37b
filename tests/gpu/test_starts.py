"""What keeps a worker from starting on a machine with a GPU, as real libraries say it, is sorted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.root import ROOT

pytest.importorskip("pydantic")  # of the settings

DRAW = """
import sys, torch
from jobs.settings import Settings
from pipeline import TINY_CHECKPOINT, ZImagePipeline
from worker.obstacles import obstacle

device = torch.device("cuda", 0)
try:
    if sys.argv[1] == "memory":
        torch.cuda.set_per_process_memory_fraction(1e-5, device)
    ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device)("a cat", height=64, width=64, num_inference_steps=1)
except Exception as error:
    found = obstacle(error, Settings(model="a/b"), device)
    print(int(found.code), found.line)
"""


def told(obstacle: str, **environ: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "CC"}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, obstacle],
        cwd=ROOT,
        env={**env, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_gpus_that_are_hidden() -> None:
    assert "CUDA_VISIBLE_DEVICES='' leaves none of its GPUs" in told("hidden", CUDA_VISIBLE_DEVICES="")


def test_no_compiler(tmp_path: Path) -> None:
    line = told("compiler", PATH=str(tmp_path), TRITON_CACHE_DIR=str(tmp_path))
    assert line.startswith("69 Triton finds no C compiler: install gcc")


def test_too_little_memory() -> None:
    line = told("memory")
    assert "has too little memory" in line
    assert "takes about 20.5 GiB" in line
