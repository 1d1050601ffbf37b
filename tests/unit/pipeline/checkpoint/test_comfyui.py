"""The single file that ComfyUI reads in place of diffusers' transformer: the same model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import CheckpointError, ZImagePipeline
from pipeline.checkpoint.names import comfyui_name
from pipeline.model.transformer import Transformer, TransformerParams

DIFFUSERS = "diffusion_pytorch_model.safetensors"
COMFYUI = "z_image_turbo_bf16.safetensors"


def comfyui(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What ComfyUI's file has of these tensors of diffusers'."""
    renamed: dict[str, Tensor] = {"norm_final.weight": torch.ones(3)}
    for key, tensor in state.items():
        name = key.replace("all_x_embedder.2-1.", "x_embedder.").replace("all_final_layer.2-1.", "final_layer.")
        name = name.replace("norm_q", "q_norm").replace("norm_k", "k_norm").replace("to_out.0", "out")
        renamed[name] = tensor
    for name in [name for name in renamed if "to_q" in name]:
        parts = [renamed.pop(name.replace("to_q", f"to_{part}")) for part in "qkv"]
        renamed[name.replace("to_q", "qkv")] = torch.cat(parts)
    return {prefix + name: tensor.clone() for name, tensor in renamed.items()}


@pytest.fixture(params=["", "model.diffusion_model."])
def single_file(request: pytest.FixtureRequest, checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    root = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["small"], root)
    state = load_file(root / "transformer" / DIFFUSERS)
    converted = comfyui(state, request.param)
    save_file(converted, root / "transformer" / COMFYUI)
    (root / "transformer" / DIFFUSERS).unlink()

    theirs = convert_z_image_transformer_checkpoint_to_diffusers(dict(converted))
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[key], state[key]) for key in state)
    return root


def load(root: Path) -> ZImagePipeline:
    return ZImagePipeline.from_pretrained(root, device="cpu", dtype=torch.float32)


def change(root: Path, **tensors: Tensor | None) -> str:
    """Set or remove tensors, by the part of the name after the prefix with `__` for dots; return the file's path."""
    file = root / "transformer" / COMFYUI
    state = load_file(file)
    prefix = next(iter(state)).partition("model.diffusion_model.")[1]
    for key, tensor in tensors.items():
        state.pop(name := prefix + key.replace("__", "."), None)
        if tensor is not None:
            state[name] = tensor
    save_file(state, file)
    return f"{file}: "


def test_it_is_the_same_model(single_file: Path, small: ZImagePipeline) -> None:
    found, expected = load(single_file).transformer.state_dict(), small.transformer.state_dict()

    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_errors_name_the_tensor_as_it_is_stored(single_file: Path) -> None:
    file = change(single_file, layers__1__attention__qkv__weight=None)
    with pytest.raises(
        CheckpointError, match=rf"^{file}missing tensor '[\w.]*layers.1.attention.qkv.weight'"
    ) as caught:
        load(single_file)
    assert "expected shape [192, 64]" in str(caught.value)

    change(single_file, layers__1__attention__qkv__weight=torch.zeros(128, 64))
    with pytest.raises(CheckpointError, match=r"qkv.weight' has shape \[128, 64\], expected \[192, 64\]$"):
        load(single_file)

    change(single_file, layers__1__attention__qkv__weight=torch.zeros(192, 64), siglip__weight=torch.zeros(2))
    with pytest.raises(CheckpointError, match=rf"^{file}unexpected tensor '[\w.]*siglip.weight'"):
        load(single_file)


def test_without_config_it_has_to_be_turbo(single_file: Path) -> None:
    (single_file / "transformer/config.json").unlink()

    with pytest.raises(CheckpointError, match=r"has shape \[48\], expected \[2560\] .*has to be Z-Image-Turbo\)$"):
        load(single_file)


def test_a_second_file_is_refused(single_file: Path) -> None:
    shutil.copy(single_file / "transformer" / COMFYUI, single_file / "transformer" / "z_image.safetensors")

    with pytest.raises(
        CheckpointError, match=r"transformer: holds z_image.safetensors, z_image_turbo.* without an index"
    ):
        load(single_file)


@pytest.mark.skipif(psutil.virtual_memory().total < 14e9, reason="maps a file of 12 GB")
def test_turbo_of_full_size_is_loaded_without_a_copy_in_ram(tmp_path: Path) -> None:
    with torch.device("meta"):
        turbo = Transformer(TransformerParams())
    rows: dict[str, list[int]] = {}
    for key, tensor in turbo.state_dict().items():
        count, *rest = tensor.shape
        name = comfyui_name(key)
        rows[name] = [rows.get(name, [0])[0] + count, *rest]
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, shape in rows.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / COMFYUI).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # a hole that takes no room on disk

    script = f"""
import resource, torch
from pathlib import Path
from pipeline.checkpoint.components import transformer_weights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = transformer_weights(Path({str(tmp_path)!r})).load(torch.device("cpu"), torch.bfloat16)
print(sum(x.nbytes for x in model.parameters()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded, grown = map(int, done.stdout.split())
    assert loaded == end > 12e9
    assert grown * 1024 < 200e6
