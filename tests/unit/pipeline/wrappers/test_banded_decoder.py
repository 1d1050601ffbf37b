"""A picture that is decoded in bands is the one that is decoded whole, within one level, without a seam."""

import pytest
import torch

from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.model.autoencoder import Decoder, to_uint8
from pipeline.wrappers import banded_decoder
from pipeline.wrappers.banded_decoder import BandedDecoder


@pytest.mark.parametrize("values", [1, 3000, 2**23])  # of a band: one row at a time, several, all of them
def test_bands_are_seamless(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(banded_decoder, "BAND_VALUES", values)
    monkeypatch.setattr(banded_decoder, "ATTENTION_BYTES", 8 * 60 * values)
    pipe = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cpu", dtype=torch.float32)
    plain = pipe.autoencoder.decoder
    assert isinstance(plain, Decoder)
    banded = BandedDecoder(plain, plain, lambda _height, _width: "bands")
    latents = pipe("a red circle", height=80, width=96, num_images=2, output_type="latent")
    with torch.inference_mode():
        expected = to_uint8(pipe.autoencoder.decode(latents)).int()
        pipe.autoencoder.decoder = banded
        found = to_uint8(pipe.autoencoder.decode(latents)).int()
    assert (found - expected).abs().max() <= 1
    assert (found != expected).float().mean() < 0.001
