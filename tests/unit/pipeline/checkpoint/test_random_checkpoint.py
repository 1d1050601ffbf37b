import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint.random import SIZES, weight_shapes, write_configs, write_random_checkpoint
from support.parity import load_pair, relative_error


@pytest.mark.parametrize("shard_bytes", [None, 200_000])
def test_diffusers_draws_the_same_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int | None
) -> None:
    if shard_bytes is not None:
        monkeypatch.setitem(SIZES, "tiny", dataclasses.replace(SIZES["tiny"], shard_bytes=shard_bytes))
    write_random_checkpoint(tmp_path / "tiny")
    pair = load_pair(tmp_path / "tiny")
    latents = torch.randn(1, 16, 8, 12)
    arguments = {"prompt": "a cat", "height": 64, "width": 96, "latents": latents, "num_inference_steps": 8}

    ours = pair.ours(output_type="latent", guidance_scale=3.0, **arguments)
    theirs = pair.theirs(output_type="latent", guidance_scale=3.0, **arguments).images

    assert relative_error(ours, theirs) <= 1e-4
    assert (len(list((tmp_path / "tiny").rglob("*.safetensors"))) == 3) == (shard_bytes is None)


def test_a_seed_means_the_same_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, seed=seed)

    a, b, c = ((tmp_path / name / "vae/diffusion_pytorch_model.safetensors").read_bytes() for name in "abc")

    assert a == b
    assert a != c


def test_turbo_has_the_size_of_the_released_model(tmp_path: Path) -> None:
    write_configs(tmp_path, SIZES["turbo"])

    shapes = weight_shapes(tmp_path)

    millions = {stem: round(sum(shape.numel() for shape in tensors.values()) / 1e6) for stem, tensors in shapes.items()}
    assert millions == {
        "transformer/diffusion_pytorch_model": 6155,
        "vae/diffusion_pytorch_model": 84,
        "text_encoder/model": 4022,
    }


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(FileExistsError, match="is not empty"):
        write_random_checkpoint(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dataclasses.replace(SIZES["tiny"], text_encoder={**SIZES["tiny"].text_encoder, "hidden_size": "wide"})
    monkeypatch.setitem(SIZES, "tiny", broken)

    with pytest.raises(Exception, match="hidden_size"):
        write_random_checkpoint(tmp_path / "tiny")

    assert list(tmp_path.iterdir()) == []
