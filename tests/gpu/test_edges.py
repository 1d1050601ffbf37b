"""What the fused paths meet seldom: guidance, weights that are fp8 in part, GPUs without fp8, many shapes."""

import dataclasses
from pathlib import Path

import pytest
import torch
from test_fused import psnr
from torch import Tensor

from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.checkpoint.quantized import write_quantized_checkpoint
from pipeline.checkpoint.random import SIZES, write_random_checkpoint
from pipeline.cuda import graphs
from pipeline.formats import fp8
from pipeline.formats.fp8 import E4M3, Fp8Matrix
from pipeline.formats.quantizing import matrix, quantized_weight, set_quantized_weight

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def all_fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of sizes that let every matrix of a block be fp8; those of the bundled model don't."""
    root = tmp_path_factory.mktemp("sizes")
    with pytest.MonkeyPatch.context() as patch:
        transformer = {**SIZES["tiny"].transformer, "dim": 192, "axes_dims": [16, 24, 24]}
        patch.setitem(SIZES, "tiny", dataclasses.replace(SIZES["tiny"], dtype=torch.bfloat16, transformer=transformer))
        write_random_checkpoint(root)
    return root


def needs_fp8() -> None:
    if torch.cuda.get_device_capability() < fp8.CAPABILITY:
        pytest.skip("this GPU has no fp8")


def test_guidance_draws_the_pictures_of_the_plain_path() -> None:
    exact = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", dtype=torch.float32)
    plain = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cpu", dtype=torch.bfloat16)
    fused = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda")

    def draw(pipe: ZImagePipeline, seed: int) -> Tensor:
        return pipe(
            PROMPT, "a green square and a yellow star", 96, 128, seed=seed, guidance_scale=2.0, cfg_normalization=True
        )

    of_plain, of_fused = [], []
    for seed in range(5):
        expected = draw(exact, seed)
        of_plain.append(psnr(draw(plain, seed), expected))
        of_fused.append(psnr(draw(fused, seed), expected))
    assert sorted(of_fused)[2] > sorted(of_plain)[2] - 2, (of_fused, of_plain)


def test_every_matrix_of_a_block_can_be_fp8(all_fp8: Path, tmp_path: Path) -> None:
    needs_fp8()
    write_quantized_checkpoint(all_fp8, tmp_path / "fp8")
    noise = torch.randn(1, 16, 24, 32, generator=torch.Generator().manual_seed(0))

    def draw(root: Path, **arguments: object) -> tuple[ZImagePipeline, Tensor]:
        pipe = ZImagePipeline.from_pretrained(root, "cuda", **arguments)  # type: ignore[arg-type]
        size = {"height": 192, "width": 256, "num_inference_steps": 4}
        return pipe, pipe("a cat", latents=noise, output_type="latent", **size)  # type: ignore[arg-type]

    _, expected = draw(all_fp8, dtype=torch.float32)
    at_load, found = draw(all_fp8, quantization="fp8")
    _, from_files = draw(tmp_path / "fp8")

    assert sum(isinstance(module, Fp8Matrix) for module in at_load.transformer.modules()) == 4 * 4
    assert torch.equal(found, from_files)
    assert (found - expected).norm() < 0.15 * expected.norm()


def test_a_gpu_without_fp8_runs_files_in_fp8(all_fp8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_quantized_checkpoint(all_fp8, tmp_path / "fp8")
    monkeypatch.setattr(fp8, "CAPABILITY", (99, 0))

    pipe = ZImagePipeline.from_pretrained(tmp_path / "fp8", "cuda")

    assert pipe.quantization is None
    exact = ZImagePipeline.from_pretrained(tmp_path / "fp8", "cuda", torch.float32)
    arguments = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent"}
    expected = exact("a cat", **arguments)  # type: ignore[arg-type]
    found = pipe("a cat", **arguments)  # type: ignore[arg-type]
    assert (found - expected).norm() < 0.05 * expected.norm()
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU of compute capability 8\.9"):
        ZImagePipeline.from_pretrained(all_fp8, "cuda", quantization="fp8")


def test_projections_of_which_one_alone_is_fp8_are_joined_in_bfloat16() -> None:
    to_q, to_k, to_v = (torch.nn.Linear(64, 64, bias=False, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    set_quantized_weight(to_q, E4M3.quantize(to_q.weight))

    joined = matrix(to_q, to_k, to_v)

    x = torch.randn(5, 64, device="cuda", dtype=torch.bfloat16)
    weights = [quantized_weight(to_q).dequantize(torch.float32), to_k.weight.float(), to_v.weight.float()]
    expected = x.float() @ torch.cat(weights).T
    assert (joined(x) - expected).norm() < 0.01 * expected.norm()


def test_more_shapes_than_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT_GRAPHS", 2)
    recorded = graphs.Graphs(lambda x: (2 * x).cumsum(0))

    for size in (3, 4, 5, 3, 5, 4, 4):
        x = torch.randn(size, device="cuda")
        assert torch.equal(recorded(x), (2 * x).cumsum(0))
        assert len(recorded.graphs) <= 2
