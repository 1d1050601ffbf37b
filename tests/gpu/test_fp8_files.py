"""Checkpoints in fp8 on a GPU that has it, and the caches of what is compiled there."""

import gc
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.checkpoint.quantized import write_quantized_checkpoint
from pipeline.checkpoint.random import write_random_checkpoint
from pipeline.formats.fp8 import CAPABILITY, E4M3
from support.bfloat16_checkpoint import write_bfloat16_checkpoint


@pytest.fixture(autouse=True)
def needs_fp8() -> None:
    if torch.cuda.get_device_capability() < CAPABILITY:
        pytest.skip("this GPU has no fp8")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    write_bfloat16_checkpoint(root)
    return root


@pytest.fixture(scope="module")
def quantized(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantized")
    write_quantized_checkpoint(original, root)
    return root


def test_a_weight_is_quantised_alike_on_every_device() -> None:
    weight = torch.randn(1024, 768).bfloat16() * torch.logspace(-6, 3, 1024)[:, None].bfloat16()

    here, there = E4M3.quantize(weight), E4M3.quantize(weight.cuda())

    assert torch.equal(here.values.view(torch.uint8), there.values.view(torch.uint8).cpu())
    assert torch.equal(here.scales, there.scales.cpu())


@pytest.mark.parametrize("write", [write_bfloat16_checkpoint, write_random_checkpoint])  # that is float32
def test_files_in_fp8_are_what_quantising_at_load_makes(write: Callable[[Path], None], tmp_path: Path) -> None:
    original, quantized = tmp_path / "original", tmp_path / "quantized"
    write(original)
    write_quantized_checkpoint(original, quantized)
    found = ZImagePipeline.from_pretrained(quantized, device="cuda")
    expected = ZImagePipeline.from_pretrained(original, device="cuda", quantization="fp8")

    assert found.quantization == expected.quantization == "fp8"
    for ours, theirs in (
        (found.transformer, expected.transformer),
        (found.text_encoder.model, expected.text_encoder.model),
    ):
        buffers = dict(ours.named_buffers())
        assert buffers.keys() == dict(theirs.named_buffers()).keys()
        for name, buffer in theirs.named_buffers():
            assert buffers[name].dtype == buffer.dtype
            assert torch.equal(buffers[name].float(), buffer.float()), name
    arguments = {"height": 128, "width": 96, "num_inference_steps": 3, "seed": 5}
    assert torch.equal(found("a cat", **arguments), expected("a cat", **arguments))


def test_files_in_fp8_are_taken_with_fp8_asked_for_too(quantized: Path) -> None:
    assert ZImagePipeline.from_pretrained(quantized, device="cuda", quantization="fp8").quantization == "fp8"


@pytest.mark.parametrize("quantization", [None, "fp8"])
def test_float32_files_take_no_more_memory_than_bfloat16_ones(
    original: Path, tmp_path: Path, quantization: str | None
) -> None:
    """A tensor more at most: in float32 the whole would not fit on cards that its bfloat16 or fp8 is for."""
    write_random_checkpoint(tmp_path / "float32")
    peaks = []
    for root in (original, tmp_path / "float32"):
        gc.collect()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        pipe = ZImagePipeline.from_pretrained(root, device="cuda", quantization=quantization)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    largest = max(parameter.numel() for parameter in pipe.text_encoder.model.parameters())

    assert peaks[1] <= peaks[0] + 4 * largest, peaks


def test_without_bfloat16_there_is_no_fp8(original: Path, quantized: Path) -> None:
    assert ZImagePipeline.from_pretrained(original, device="cuda").quantization is None
    pipe = ZImagePipeline.from_pretrained(quantized, device="cuda", dtype=torch.float32)
    assert pipe.quantization is None
    assert pipe("a cat", height=64, width=64, num_inference_steps=2).float().std() > 10
    with pytest.raises(ValueError, match=r"dtype is torch.float32"):
        ZImagePipeline.from_pretrained(quantized, device="cuda", dtype=torch.float32, quantization="fp8")


def test_compiled_kernels_are_kept_and_broken_ones_made_anew(tmp_path: Path) -> None:
    chosen = ("TRITON_CACHE_DIR", "TRITON_CACHE_MANAGER", "TORCHINDUCTOR_CACHE_DIR")
    environ = {key: value for key, value in os.environ.items() if key not in chosen}
    command = ["generate", "a cat", "--width", "128", "--height", "128", "--seed", "1", "--model", str(TINY_CHECKPOINT)]

    def draw(name: str) -> bytes:
        subprocess.run(
            [sys.executable, "-m", "cli.main", *command, "--out", str(tmp_path / name)],
            env={**environ, "ZIMAGE_CACHE_DIR": str(tmp_path / "cache"), "ZIMAGE_DEVICE": "cuda"},
            check=True,
        )
        return (tmp_path / name).read_bytes()

    first = draw("first.png")
    cubins = sorted((tmp_path / "cache/triton").rglob("*.cubin"))
    assert cubins
    for count, file in enumerate(cubins):
        whole = file.read_bytes()
        file.write_bytes((b"", whole[:-100], bytes(len(whole)))[count % 3])
    assert draw("second.png") == first
    for file in cubins:
        assert hashlib.sha256(file.read_bytes()).hexdigest() == Path(f"{file}.sha256").read_text()


def test_the_worker_leaves_no_holes_in_memory() -> None:
    """Without this setting `bench.pipeline` found no room for 1536×1536 on a card of 16 GB after other sizes."""
    script = (
        "import torch; from worker.executor.expandable_segments import expandable_segments\n"
        "torch.cuda.get_device_properties(0)\n"  # as the choice of a device asks
        "with expandable_segments(torch.device('cuda', 0)): pass\n"
        "torch.zeros(2**20, device='cuda')\n"
        "print({segment['is_expandable'] for segment in torch.cuda.memory_snapshot()})"
    )
    environ = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    ran = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "{True}"
