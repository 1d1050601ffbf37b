"""A picture that is decoded in bands is the one that is decoded whole, within one level, without a seam."""

import pytest
import torch

from pipeline import TINY_CHECKPOINT
from pipeline.checkpoint.components import autoencoder_weights
from pipeline.model.autoencoder import Decoder, to_uint8
from pipeline.wrappers import banded_decoder
from pipeline.wrappers.banded_decoder import BandedDecoder


@pytest.mark.parametrize("values", [1, 3000, 2**23])  # of a band: one row at a time, several, all of them
def test_bands_are_seamless(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(banded_decoder, "BAND_VALUES", dict.fromkeys((2, 4), values))
    vae = autoencoder_weights(TINY_CHECKPOINT / "vae").load(torch.device("cpu"), torch.float32)
    plain = vae.decoder
    assert isinstance(plain, Decoder)
    latents = torch.randn(2, vae.params.latent_channels, 5, 6, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = to_uint8(vae.decode(latents)).int()
        vae.decoder = BandedDecoder(plain, plain, lambda _height, _width: "bands")
        found = to_uint8(vae.decode(latents)).int()
    assert (found - expected).abs().max() <= 1
    assert (found != expected).float().mean() < 0.001
