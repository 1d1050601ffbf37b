"""Weights under the names that diffusers and transformers give to variants, alone and beside the plain ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import CheckpointError
from pipeline.checkpoint.components import Checkpoint, text_encoder_weights, transformer_weights

CPU = torch.device("cpu")


@pytest.fixture
def plain(checkpoints: dict[str, Path]) -> dict[str, Tensor]:
    return transformer_weights(checkpoints["wide"] / "transformer").load(CPU, torch.float32).state_dict()


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A transformer's folder as diffusers writes its variant: shards, their index and the config."""
    model = ZImageTransformer2DModel.from_pretrained(checkpoints["wide"], subfolder="transformer")
    model.save_pretrained(tmp_path / "transformer", variant="fp16", max_shard_size="500KB")
    return tmp_path / "transformer"


def loaded(folder: Path) -> dict[str, Tensor]:
    return transformer_weights(folder).load(CPU, torch.float32).state_dict()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_shards_of_a_variant_are_read(folder: Path, plain: dict[str, Tensor]) -> None:
    assert (folder / "diffusion_pytorch_model.safetensors.index.fp16.json").exists()
    assert same(loaded(folder), plain)


def test_the_variant_may_stand_before_the_ending(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    shutil.copytree(checkpoints["wide"] / "text_encoder", folder)
    (folder / "model.safetensors.index.json").rename(folder / "model.fp16.safetensors.index.json")

    assert text_encoder_weights(folder).holds


def merge(folder: Path, name: str, change: float = 0.0) -> None:
    """Write all shards' tensors into one file, changed by so much."""
    shards = sorted(folder.glob("*fp16-0*.safetensors"))
    tensors = {key: tensor + change for shard in shards for key, tensor in load_file(shard).items()}
    save_file(tensors, folder / name)


def test_weights_of_one_component_may_be_a_variant(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["small"], root)
    (root / "text_encoder/model.safetensors").rename(root / "text_encoder/model.fp16.safetensors")

    assert Checkpoint(root).text_encoder.holds


@pytest.mark.parametrize("source", ["small", "wide"])  # one file, and shards
@pytest.mark.parametrize("content", [b"", b"<html>", b'{"weight_map": 1}'])
def test_what_lies_beside_whole_weights_is_not_read(
    checkpoints: dict[str, Path], tmp_path: Path, source: str, content: bytes
) -> None:
    for name in (
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model.bf16.safetensors",
        "diffusion_pytorch_model.safetensors.part",
        "._diffusion_pytorch_model.safetensors",
    ):
        (tmp_path / name).write_bytes(content)
    for file in (checkpoints[source] / "transformer").iterdir():
        shutil.copy(file, tmp_path)

    assert transformer_weights(tmp_path).holds


@pytest.mark.parametrize("name", ["", ".bf16"])
def test_a_broken_index_of_others_does_not_stand_in_a_variant_s_way(
    folder: Path, plain: dict[str, Tensor], name: str
) -> None:
    (folder / f"diffusion_pytorch_model{name}.safetensors.index.json").write_text("<html>")
    (folder / "._diffusion_pytorch_model.fp16.safetensors").write_text("of another system")

    assert same(loaded(folder), plain)


def index_of_nothing(folder: Path) -> None:
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.fp16.json").read_text())
    names = {key: name.replace(".fp16", "") for key, name in index["weight_map"].items()}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_the_plain_files_go_before_a_variant(folder: Path, plain: dict[str, Tensor]) -> None:
    merge(folder, "diffusion_pytorch_model.safetensors", change=1.0)

    assert same(loaded(folder), {key: tensor + 1.0 for key, tensor in plain.items()})


def test_an_index_without_its_shards_does_not_stand_in_a_variant_s_way(folder: Path, plain: dict[str, Tensor]) -> None:
    index_of_nothing(folder)

    assert same(loaded(folder), plain)


def test_an_index_alone_tells_what_is_missing(folder: Path) -> None:
    for shard in folder.glob("*.safetensors"):
        shard.unlink()

    with pytest.raises(CheckpointError, match=r"fp16-0000\d-of-.*: missing shard, .*index.fp16.json expects tensor"):
        loaded(folder)


def broken_index(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")


def plain_with_a_shard(folder: Path) -> None:
    index_of_nothing(folder)
    shard = next(folder.glob("*fp16-00001-of-*.safetensors"))
    shutil.copy(shard, folder / shard.name.replace(".fp16", ""))


def two_variants(folder: Path) -> None:
    merge(folder, "diffusion_pytorch_model.bf16.safetensors")


@pytest.mark.parametrize(
    ("add", "told"),
    [
        (plain_with_a_shard, r"diffusion_pytorch_model-000\d\d-of-\d+.safetensors: missing shard"),
        (broken_index, "index.fp16.json: missing field 'weight_map'"),
        (two_variants, r"holds several variants \(.*index.fp16.json, .*bf16.safetensors\)"),
    ],
)
def test_what_is_half_there_or_ambiguous_is_refused(folder: Path, add: Callable[[Path], None], told: str) -> None:
    add(folder)

    with pytest.raises(CheckpointError, match=told):
        loaded(folder)
