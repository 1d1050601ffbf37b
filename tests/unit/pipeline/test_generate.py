from typing import Any

import numpy as np
import pytest
import torch

from jobs.spec import JobInput
from pipeline import Drawing, ZImagePipeline
from support.parity import Pair, relative_error

LONG = "a much longer prompt, with more tokens than one block of thirty-two, so that padded lengths differ"


def draw_with_diffusers(pair: Pair, latents: torch.Tensor, output_type: str = "latent", **arguments: Any) -> Any:
    height, width = (8 * size for size in latents.shape[2:])
    arguments = {"guidance_scale": 0.0, "num_inference_steps": 8, **arguments}
    return pair.theirs(
        height=height,
        width=width,
        latents=latents,
        num_images_per_prompt=len(latents),
        output_type=output_type,
        **arguments,
    ).images


def draw(pipe: ZImagePipeline, latents: torch.Tensor, output_type: str = "latent", **arguments: Any) -> torch.Tensor:
    height, width = (8 * size for size in latents.shape[2:])
    return pipe(
        height=height, width=width, latents=latents, num_images=len(latents), output_type=output_type, **arguments
    )


def noise(images: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(images, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(height + width))


@pytest.mark.parametrize(
    ("images", "height", "width", "arguments"),
    [
        (1, 128, 128, {"prompt": "a cat"}),
        (1, 48, 144, {"prompt": LONG}),
        (2, 144, 80, {"prompt": "x", "num_inference_steps": 3}),
        (1, 64, 64, {"prompt": "w" * 900, "num_inference_steps": 1}),
        (1, 64, 64, {"prompt": "13 characters", "num_inference_steps": 20}),
        (1, 64, 96, {"prompt": "a cat", "guidance_scale": 4.0}),
        (2, 80, 48, {"prompt": "a cat", "negative_prompt": LONG, "guidance_scale": 0.7}),
        (2, 64, 64, {"prompt": LONG, "negative_prompt": "x", "guidance_scale": 5.0, "cfg_normalization": True}),
        (2, 64, 64, {"prompt": LONG, "guidance_scale": 5.0, "cfg_normalization": 0.8}),
        (2, 64, 64, {"prompt": "a cat", "guidance_scale": 5.0, "cfg_normalization": 3.0}),
        (1, 64, 64, {"prompt": LONG, "guidance_scale": 5.0, "cfg_truncation": 0.3}),
        (1, 64, 64, {"prompt": "a cat", "guidance_scale": 5.0, "cfg_truncation": 0.0, "cfg_normalization": True}),
        (1, 64, 64, {"prompt": "a cat", "guidance_scale": 5.0, "cfg_truncation": 2.0}),
    ],
)
def test_latents_equal_diffusers(pair: Pair, images: int, height: int, width: int, arguments: dict[str, Any]) -> None:
    start = noise(images, height, width)

    latents = draw(pair.ours, start, **arguments)

    assert latents.dtype == torch.float32
    assert relative_error(latents, draw_with_diffusers(pair, start, **arguments)) <= 1e-4


@pytest.mark.parametrize(("height", "width", "guidance_scale"), [(128, 128, 0.0), (48, 112, 4.0)])
def test_pixels_equal_diffusers(pair: Pair, height: int, width: int, guidance_scale: float) -> None:
    start = noise(2, height, width)

    pixels = draw(pair.ours, start, "uint8", prompt="a cat", guidance_scale=guidance_scale)

    theirs = draw_with_diffusers(pair, start, "pil", prompt="a cat", guidance_scale=guidance_scale)
    expected = torch.from_numpy(np.stack([np.asarray(image) for image in theirs]))
    assert pixels.shape == expected.shape == (2, height, width, 3)
    assert pixels.dtype == torch.uint8
    assert ((pixels.int() - expected.int()).abs() <= 1).float().mean() >= 0.999
    assert pixels.float().std() > 10


@pytest.mark.parametrize("guidance_scale", [0.0, 4.0])
def test_each_image_of_a_batch_equals_its_seed_alone(small: ZImagePipeline, guidance_scale: float) -> None:
    options: dict[str, Any] = {"height": 80, "width": 112, "guidance_scale": guidance_scale, "negative_prompt": LONG}
    latents = small("a cat", seed=7, num_images=3, output_type="latent", **options)
    pixels = small("a cat", seed=7, num_images=3, **options)

    for i in range(3):
        assert torch.equal(latents[i], small("a cat", seed=7 + i, output_type="latent", **options)[0])
        assert torch.equal(pixels[i], small("a cat", seed=7 + i, **options)[0])
    assert relative_error(latents[1], latents[0]) > 0.1


def test_a_seed_is_the_noise_of_torch_s_cpu_generator(small: ZImagePipeline) -> None:
    start = torch.stack([torch.randn(16, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (41, 42)])

    drawn = small("a cat", height=48, width=64, seed=41, num_images=2, output_type="latent")

    assert torch.equal(drawn, draw(small, start, prompt="a cat"))


def test_each_step_and_each_image_s_decoding_is_told(small: ZImagePipeline) -> None:
    told: list[tuple[str, int, int]] = []

    drawing = Drawing(
        "a cat",
        height=64,
        width=64,
        num_inference_steps=3,
        num_images=2,
        on_step=lambda step, total: told.append(("step", step, total)),
        on_decode=lambda image, total: told.append(("image", image, total)),
    )
    small.generate(drawing)

    assert told == [("step", 1, 3), ("step", 2, 3), ("step", 3, 3), ("image", 1, 2), ("image", 2, 2)]


@pytest.mark.parametrize("told", ["on_step", "on_decode"])
def test_raising_when_told_stops_the_run(small: ZImagePipeline, told: str) -> None:
    class CanceledError(Exception):
        pass

    numbers = []

    def cancel(number: int, _total: int) -> None:
        numbers.append(number)
        if number == 2:
            raise CanceledError

    with pytest.raises(CanceledError):
        small("a cat", height=64, width=64, num_images=3, **{told: cancel})

    assert numbers == [1, 2]
    assert small("a cat", height=64, width=64).shape == (1, 64, 64, 3)


def test_a_generation_tells_its_timings_and_warnings(small: ZImagePipeline) -> None:
    generation = small.generate(Drawing("p" * 700, "n" * 800, 64, 64, guidance_scale=2.0))

    assert list(generation.timings) == ["text_encode", "denoise", "decode"]
    assert all(seconds > 0 for seconds in generation.timings.values())
    assert generation.peak_vram_bytes == 0
    assert generation.steps_skipped == [0]
    assert generation.warnings == [
        "prompt has 719 tokens; the model reads the first 512",
        "negative prompt has 819 tokens; the model reads the first 512",
    ]
    assert small.generate(Drawing("short", height=64, width=64)).warnings == []
    # The API tells it first, and by the same words it is one warning.
    idle = small.generate(Drawing("short", "long", height=64, width=64)).warnings
    assert idle == JobInput(prompt="short", negative_prompt="long").warnings != []


def test_a_generation_tells_which_prompts_it_had_at_hand(small: ZImagePipeline) -> None:
    first = small.generate(Drawing("asked for twice", height=64, width=64, output_type="latent"))
    second = small.generate(
        Drawing("asked for twice", "but for this", 64, 64, guidance_scale=2.0, output_type="latent")
    )

    assert (first.prompts, first.prompts_reused) == (1, 0)
    assert (second.prompts, second.prompts_reused) == (2, 1)


def test_a_missing_negative_prompt_is_the_empty_one(small: ZImagePipeline) -> None:
    options: dict[str, Any] = {"height": 64, "width": 64, "guidance_scale": 3.0}

    assert torch.equal(small("a cat", **options), small("a cat", "", **options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"height": 100}, "height is 100, expected a multiple of 16"),
        ({"width": 0}, "width is 0, expected a multiple of 16"),
        ({"width": -16}, "width is -16"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0, expected 1 or more"),
        ({"num_images": 0}, "num_images is 0, expected 1 or more"),
        ({"guidance_scale": -0.5}, "guidance_scale is -0.5, expected 0 or more"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"output_type": "png"}, "output_type is 'png', expected 'uint8' or 'latent'"),
        ({"latents": torch.zeros(1, 16, 8, 4)}, r"latents have shape \[1, 16, 8, 4\], expected \[1, 16, 8, 8\]"),
    ],
)
def test_an_argument_out_of_range_is_named(small: ZImagePipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**{"prompt": "a cat", "height": 64, "width": 64, **arguments})
