import pytest
import torch

from support.parity import Pair, relative_error

SCALING, SHIFT = 0.3611, 0.1159


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (2, 16, 6, 10)])
def test_decode_equals_diffusers(pair: Pair, shape: tuple[int, ...]) -> None:
    latents = torch.randn(shape)

    images = pair.ours.autoencoder.decode(latents)

    assert images.shape == (shape[0], 3, 8 * shape[2], 8 * shape[3])
    assert relative_error(images, pair.theirs.vae.decode(latents / SCALING + SHIFT).sample) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 48, 80)])
def test_encode_equals_diffusers(pair: Pair, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape) * 2 - 1
    distribution = pair.theirs.vae.encode(images).latent_dist

    mean, logvar = pair.ours.autoencoder.moments(images)

    assert relative_error(mean, distribution.mean) <= 1e-5
    assert relative_error(logvar, distribution.logvar) <= 1e-5
    assert relative_error(pair.ours.autoencoder.encode(images), (distribution.mean - SHIFT) * SCALING) <= 1e-5
