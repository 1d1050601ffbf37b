import pytest
import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from pipeline.model.transformer import Transformer
from support.parity import Pair, relative_error


def theirs(model: ZImageTransformer2DModel, latents: torch.Tensor, time: float, captions: list[torch.Tensor]):
    output = model(list(latents.unsqueeze(2)), torch.full((len(latents),), time), captions, return_dict=False)[0]
    return torch.stack(output).squeeze(2)


def ours(model: Transformer, latents: torch.Tensor, time: float, captions: list[torch.Tensor]):
    conditioning = model.prepare(captions, latents.shape[2], latents.shape[3])
    return model(latents, torch.tensor([time]), conditioning)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [
        (16, 16, [32]),  # 64 image tokens: both streams full
        (16, 16, [1]),
        (10, 14, [33]),  # 35 image tokens: both streams padded
        (2, 2, [7]),  # a single image token
        (12, 20, [512]),
        (16, 8, [5, 30]),  # two captions of one padded length
        (10, 6, [5, 40, 97]),  # three of three lengths
    ],
)
@pytest.mark.parametrize("time", [0.0, 0.37, 0.875])
def test_output_equals_diffusers(pair: Pair, height: int, width: int, tokens: list[int], time: float) -> None:
    generator = torch.Generator().manual_seed(height * width + len(tokens))
    latents = torch.randn(len(tokens), 16, height, width, generator=generator)
    captions = [torch.randn(n, 48, generator=generator) for n in tokens]

    output = ours(pair.ours.transformer, latents, time, captions)

    assert relative_error(output, theirs(pair.theirs.transformer, latents, time, captions)) <= 1e-5


@torch.inference_mode()
def test_a_mask_is_passed_only_when_padded_lengths_differ(pair: Pair) -> None:
    captions = [torch.randn(n, 48) for n in (3, 32, 33)]

    assert pair.ours.transformer.prepare(captions[:2], 8, 8).mask is None
    assert pair.ours.transformer.prepare(captions, 8, 8).mask is not None


@torch.inference_mode()
def test_rows_may_be_at_different_timesteps(pair: Pair) -> None:
    model, latents, caption = pair.ours.transformer, torch.randn(2, 16, 8, 8), torch.randn(9, 48)

    together = model(latents, torch.tensor([0.1, 0.6]), model.prepare([caption] * 2, 8, 8))

    for row, time in enumerate((0.1, 0.6)):
        alone = ours(model, latents[row : row + 1], time, [caption])
        assert relative_error(together[row : row + 1], alone) <= 1e-5
