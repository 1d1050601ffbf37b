"""Weights that come and go on a real GPU: the pictures of resident weights, to the bit; in bands, within one level."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import TINY_CHECKPOINT, Drawing, ZImagePipeline, memory_sizes, recipe
from pipeline.memory_plan import LAYERS, WHOLE, BudgetError, Plan
from pipeline.memory_sizes import Picture, Sizes
from pipeline.model.autoencoder import Autoencoder, AutoencoderParams, to_uint8
from pipeline.wrappers.banded_decoder import BandedDecoder

PROMPTS = ("a red circle on a blue background", "two green squares", "a red circle on a blue background")
ASKED: dict[str, Any] = {"height": 128, "width": 96, "num_images": 2, "num_inference_steps": 4}
FULL_VAE = AutoencoderParams(3, 16, (128, 256, 512, 512), 2, 32, 0.3611, 0.1159)


def load(monkeypatch: pytest.MonkeyPatch, quantization: str, **planned: Any) -> ZImagePipeline:
    def make(sizes: Sizes, _free: int) -> Plan:
        return Plan(sizes, **planned)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "plan_for_free", make)
        return ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", quantization=quantization)


def draw(pipe: ZImagePipeline, **asked: Any) -> Tensor:
    return torch.cat([pipe(prompt, seed=3, **ASKED, **asked) for prompt in PROMPTS])


@pytest.mark.parametrize("graph_tokens", [memory_sizes.GRAPH_TOKENS, 0])
@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize(
    "planned",
    [
        {"transformer": LAYERS},
        {"transformer": LAYERS, "transformer_layers_resident": 3, "text_encoder": LAYERS, "vae": WHOLE},
        {"transformer": WHOLE, "text_encoder": WHOLE, "vae": WHOLE},
        {"text_encoder": LAYERS, "text_layers_resident": 2},
    ],
)
def test_every_residency_draws_the_pictures_of_resident_weights(
    monkeypatch: pytest.MonkeyPatch, quantization: str, planned: dict[str, Any], graph_tokens: int
) -> None:
    monkeypatch.setattr(memory_sizes, "GRAPH_TOKENS", graph_tokens)
    pipe = load(monkeypatch, quantization, **planned)
    resident = load(monkeypatch, quantization)
    for asked in ({}, {"guidance_scale": 2.0}, {"step_cache": "fast"}, {"step_cache": "fast", "guidance_scale": 2.0}):
        assert torch.equal(draw(pipe, **asked), draw(resident, **asked))


def test_a_picture_that_is_stopped_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(monkeypatch, "none", transformer=LAYERS, text_encoder=WHOLE, vae=WHOLE)
    expected = draw(pipe)

    def stop(step: int, _total: int) -> None:
        if step == 2:
            raise InterruptedError

    before = torch.cuda.memory_allocated()
    with pytest.raises(InterruptedError):
        pipe.generate(Drawing(PROMPTS[0], on_step=stop, **ASKED))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert torch.equal(draw(pipe), expected)


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_the_least_budget_draws_what_the_plan_says(quantization: str) -> None:
    with pytest.raises(BudgetError) as refusal:
        ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", quantization=quantization, vram_budget=1)
    least = refusal.value.least_bytes
    before = torch.cuda.memory_allocated()
    pipe = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, "cuda", quantization=quantization, vram_budget=least)
    assert pipe.plan is not None
    assert pipe.plan.offloads
    drawn = pipe.generate(Drawing("a red circle", height=1024, width=1024))
    assert drawn.peak_vram_bytes - before <= pipe.plan.peak_bytes(Picture())
    largest = pipe.plan.largest(Picture())
    with pytest.raises(ValueError, match=f"at most {largest:,} pixels"):
        pipe("a red circle", height=16, width=largest // 16 + 16)


@pytest.mark.parametrize("how", ["bands", "host"])
def test_bands_are_seamless(how: str) -> None:
    from pipeline.cuda.vae import FusedDecoder  # it needs Triton

    torch.manual_seed(5)
    vae = Autoencoder(FULL_VAE)
    for name, weight in vae.named_parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        else:
            nn.init.normal_(weight, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    vae = vae.cuda().bfloat16().eval()
    plain: Any = vae.decoder
    latents = torch.randn(2, 16, 160, 96, device="cuda")  # four bands at the full size
    with torch.inference_mode():
        vae.decoder = FusedDecoder(plain)
        expected = to_uint8(vae.decode(latents)).int()
        vae.decoder = BandedDecoder(vae.decoder, plain, lambda _height, _width: how)
        found = to_uint8(vae.decode(latents)).int()
    assert (found - expected).abs().max() <= 1
