"""What stands in for products and attention that a card, or a build of torch, does not have."""

import logging
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from test_fused import psnr

from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.cuda import attention
from pipeline.formats import number_format
from pipeline.formats.fp8 import CAPABILITY, E4M3, FP8
from pipeline.formats.products import first_right

PROMPT = "a red circle on a blue background"
CUDA = torch.device("cuda")


def needs_fp8() -> None:
    if torch.cuda.get_device_capability() < CAPABILITY:
        pytest.skip("this GPU has no fp8")


@pytest.mark.parametrize("rows", [1, 64, 4160, 333])
@pytest.mark.parametrize("shape", [(3840, 10240), (128, 128), (2560, 48)])
@pytest.mark.parametrize("name", FP8.products)
def test_each_product_of_fp8_is_right_for_every_shape(name: str, shape: tuple[int, int], rows: int) -> None:
    needs_fp8()
    generator = torch.Generator(CUDA).manual_seed(0)
    x = E4M3.quantize(torch.randn(rows, shape[1], device=CUDA, generator=generator))
    weight = E4M3.quantize(torch.randn(shape, device=CUDA, generator=generator))
    expected = x.dequantize(torch.float64) @ weight.dequantize(torch.float64).T

    y = FP8.products[name](x, weight.values, weight.scales.T.contiguous())

    assert y.shape == expected.shape
    assert y.dtype == torch.bfloat16
    assert float((y - expected).norm() / expected.norm()) < 0.005


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_fp8_draws_by_the_first_product_that_is_not_refused(refused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_fp8()

    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`")

    names = list(FP8.products)
    products = FP8.products | dict.fromkeys(names[:refused], refuse)
    monkeypatch.setattr(number_format.NumberFormat, "product", lambda _, device: first_right(products, E4M3, device))
    monkeypatch.setattr(FP8, "products", MappingProxyType(products), raising=False)
    exact = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda")
    pipe = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", quantization="fp8")

    assert pipe.product == names[refused]
    found = [psnr(pipe(PROMPT, seed=seed), exact(PROMPT, seed=seed)) for seed in range(5)]
    assert sorted(found)[2] > 25, found


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_picture_is_drawn_by_the_attention_that_is_left(
    failing: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Several images with captions of two lengths have masks; others none."""
    monkeypatch.setattr(attention, "_failed", {})
    attend = F.scaled_dot_product_attention
    lost = {backend.name for backend in attention.BACKENDS[:failing]}
    exact = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", dtype=torch.float32)

    def fail(*arguments: object, **options: object) -> torch.Tensor:
        allowed = torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True)
        if allowed[0].name in lost and len(allowed) < 5:  # within `attend_by_first`
            raise RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph.")
        return attend(*arguments, **options)

    def draw(pipe: ZImagePipeline) -> torch.Tensor:
        return pipe(PROMPT, "a star", 96, 128, seed=3, guidance_scale=2.0)

    expected = draw(exact)
    usual = psnr(draw(ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda")), expected)
    monkeypatch.setattr(attention, "_failed", {})
    monkeypatch.setattr(F, "scaled_dot_product_attention", fail)
    with caplog.at_level(logging.WARNING):
        found = psnr(draw(ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda")), expected)
    assert found > usual - 6
    assert all(f"by {name} fails" in caplog.text for name in lost)
