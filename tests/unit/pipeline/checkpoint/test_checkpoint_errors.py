"""A broken checkpoint is refused with one line that names file, key and what was expected."""

import codecs
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import CheckpointError, ZImagePipeline
from pipeline.checkpoint.components import autoencoder_weights
from pipeline.formats.quantizing import settle_

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665fc\nsize 12309866400\n"
TEXT_INDEX = "text_encoder/model.safetensors.index.json"


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def remove_folder(name: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / name)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def write_bytes(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def link(name: str, to: str) -> Callable[[Path], object]:
    return both(remove(name), lambda root: (root / name).symlink_to(to))


def edit(name: str, **fields: Any) -> Callable[[Path], object]:
    """Set fields of a JSON file, or remove those that are Ellipsis."""

    def change(root: Path) -> None:
        values = {**json.loads((root / name).read_text()), **fields}
        kept = {key: value for key, value in values.items() if value is not ...}
        (root / name).write_text(json.dumps(kept))

    return change


def tensors(name: str, **changed: torch.Tensor | None) -> Callable[[Path], object]:
    """Set tensors of a weights file, or remove those that are None; `__` stands for a dot."""

    def change(root: Path) -> None:
        state = load_file(root / name)
        for key, tensor in changed.items():
            state.pop(key.replace("__", "."), None)
            if tensor is not None:
                state[key.replace("__", ".")] = tensor
        save_file(state, root / name, metadata={"format": "pt"})

    return change


def truncate(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-100])


def rename(name: str, to: str) -> Callable[[Path], object]:
    return lambda root: (root / name).rename(root / to)


def both(first: Callable[[Path], object], second: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        first(root)
        second(root)

    return change


def mark(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(codecs.BOM_UTF8 + (root / name).read_bytes())


def unfinished_shard(root: Path) -> None:
    shard = sorted((root / "transformer").glob("*.safetensors"))[1]
    shard.rename(shard.with_name(f"{shard.name}.crdownload"))


def drop_chat_template(root: Path) -> None:
    (root / "tokenizer/chat_template.jinja").unlink(missing_ok=True)
    edit("tokenizer/tokenizer_config.json", chat_template=...)(root)


CASES: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    "no model_index": ("small", remove("model_index.json"), ["model_index.json: missing file"]),
    "broken JSON": ("small", write("vae/config.json", '{"a": '), ["vae/config.json: not readable as JSON"]),
    "JSON of another kind": ("small", write("vae/config.json", "[]"), ["vae/config.json: holds no JSON object"]),
    "JSON without an end": (
        "small",
        write("vae/config.json", "[" * 100_000),
        ["vae/config.json: not readable as JSON"],
    ),
    "JSON in cp1252": (
        "small",
        write_bytes("vae/config.json", '{"_name": "Gemälde"}'.encode("cp1252")),
        ["vae/config.json: is not UTF-8"],
    ),
    "unknown pipeline": (
        "small",
        edit("model_index.json", _class_name="FluxPipeline"),
        ['model_index.json: _class_name is "FluxPipeline", expected "ZImagePipeline"'],
    ),
    "unknown component": (
        "small",
        edit("model_index.json", vae=["diffusers", "AutoencoderTiny"]),
        ['model_index.json: vae is ["diffusers", "AutoencoderTiny"], expected ["diffusers", "AutoencoderKL"]'],
    ),
    "component not in the index": ("small", edit("model_index.json", transformer=...), ["transformer is missing"]),
    "no transformer": ("small", remove_folder("transformer"), ["transformer: missing weights"]),
    "missing field": ("small", edit("transformer/config.json", dim=...), ["transformer/config.json", "field 'dim'"]),
    "mistyped field": ("small", edit("transformer/config.json", dim="64"), ['dim is "64", expected a whole number']),
    "fractional field": ("small", edit("vae/config.json", norm_num_groups=0.5), ["norm_num_groups is 0.5"]),
    "mistyped number": (
        "small",
        edit("vae/config.json", shift_factor=None),
        ["shift_factor is null", "a finite number"],
    ),
    "mistyped list": (
        "small",
        edit("vae/config.json", block_out_channels=[8, "x"]),
        ['block_out_channels is [8, "x"]'],
    ),
    "unknown transformer": (
        "small",
        edit("transformer/config.json", _class_name="FluxTransformer2DModel"),
        ['transformer/config.json: _class_name is "FluxTransformer2DModel", expected "ZImageTransformer2DModel"'],
    ),
    "heads and axes that disagree": (
        "small",
        edit("transformer/config.json", axes_dims=[8, 8, 8]),
        ["axes_dims is [8, 8, 8], expected 3 even numbers that add up to dim / n_heads"],
    ),
    "axes without pairs": ("small", edit("transformer/config.json", axes_dims=[7, 13, 12]), ["3 even numbers"]),
    "no patch size": (
        "small",
        edit("transformer/config.json", all_patch_size=[]),
        ["all_patch_size is [], expected a list of whole numbers > 0"],
    ),
    "groups that leave a rest": (
        "small",
        edit("vae/config.json", norm_num_groups=7),
        ["vae/config.json: norm_num_groups is 7, expected a divisor of [8, 16, 16, 24]"],
    ),
    "NaN": ("small", edit("transformer/config.json", t_scale=math.nan), ["t_scale is NaN, expected a finite number"]),
    "infinity": (
        "small",
        edit("vae/config.json", shift_factor=math.inf),
        ["shift_factor is Infinity, expected a finite"],
    ),
    "a number beyond floats": ("small", edit("vae/config.json", shift_factor=10**400), ["expected a finite number"]),
    "a scale of nothing": ("small", edit("vae/config.json", scaling_factor=0), ["expected a finite number > 0"]),
    "a schedule of nothing": (
        "small",
        edit("scheduler/scheduler_config.json", shift=0),
        ["scheduler_config.json: shift is 0, expected a finite number > 0"],
    ),
    "mistyped section": (
        "small",
        edit("text_encoder/config.json", rope_parameters=[1]),
        ["text_encoder/config.json: rope_parameters is [1], expected an object"],
    ),
    "mistyped number in a section": (
        "small",
        edit("text_encoder/config.json", rope_parameters={"rope_theta": "big"}),
        ['text_encoder/config.json: rope_theta is "big", expected a finite number > 0'],
    ),
    "half a head": (
        "small",
        edit("text_encoder/config.json", head_dim=15),
        ["head_dim is 15, expected an even number"],
    ),
    "broken chat template": (
        "small",
        both(drop_chat_template, write("tokenizer/chat_template.jinja", "{% for %}")),
        ["tokenizer: its chat template can't be rendered"],
    ),
    "Omni transformer": ("small", edit("transformer/config.json", siglip_feat_dim=64), ["siglip_feat_dim is 64"]),
    "grouped heads": ("small", edit("transformer/config.json", n_kv_heads=1), ["n_kv_heads is 1, expected 2"]),
    "two patch sizes": ("small", edit("transformer/config.json", all_patch_size=[2, 4]), ["all_patch_size is [2, 4]"]),
    "unknown VAE": (
        "small",
        edit("vae/config.json", _class_name="AutoencoderTiny"),
        ['_class_name is "AutoencoderTiny"'],
    ),
    "quant convolution": ("small", edit("vae/config.json", use_quant_conv=True), ["use_quant_conv is true"]),
    "VAE of another model": (
        "small",
        both(
            edit("vae/config.json", latent_channels=4),
            tensors(
                "vae/diffusion_pytorch_model.safetensors",
                encoder__conv_out__weight=torch.zeros(8, 24, 3, 3),
                encoder__conv_out__bias=torch.zeros(8),
                decoder__conv_in__weight=torch.zeros(24, 4, 3, 3),
            ),
        ),
        ["vae/config.json: latent_channels is 4, expected 16"],
    ),
    "captions of another width": (
        "small",
        both(
            edit("transformer/config.json", cap_feat_dim=8),
            tensors(TRANSFORMER, cap_embedder__0__weight=torch.ones(8), cap_embedder__1__weight=torch.ones(64, 8)),
        ),
        ["text_encoder/config.json: hidden_size is 48, expected 8"],
    ),
    "unknown scheduler": (
        "small",
        edit("scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        ['scheduler_config.json: _class_name is "DDIMScheduler"'],
    ),
    "dynamic shifting": (
        "small",
        edit("scheduler/scheduler_config.json", use_dynamic_shifting=True),
        ["scheduler_config.json: use_dynamic_shifting is true, expected false"],
    ),
    "unknown text encoder": (
        "small",
        edit("text_encoder/config.json", architectures=["LlamaModel"]),
        ['text_encoder/config.json: architectures is ["LlamaModel"], expected ["Qwen3Model"]'],
    ),
    "text encoder for longer texts": (
        "small",
        edit("text_encoder/config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        ["text_encoder/config.json: rope_scaling is", "expected null"],
    ),
    "text encoder for longer texts, as transformers 5 has it": (
        "small",
        edit("text_encoder/config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e6}),
        ['text_encoder/config.json: rope_type is "yarn", expected "default"'],
    ),
    "text encoder without an angle": (
        "small",
        edit("text_encoder/config.json", rope_parameters={}),
        ["text_encoder/config.json: missing field 'rope_theta'"],
    ),
    "heads that can't be shared": (
        "small",
        edit("text_encoder/config.json", num_key_value_heads=3),
        ["text_encoder/config.json: num_key_value_heads is 3, expected a divisor of 4"],
    ),
    "text config without a width": (
        "small",
        edit("text_encoder/config.json", hidden_size=...),
        ["field 'hidden_size'"],
    ),
    "too small a vocabulary": ("small", edit("text_encoder/config.json", vocab_size=100), ["vocab_size is 100", "259"]),
    "missing tensor": (
        "small",
        tensors(TRANSFORMER, layers__1__attention__to_q__weight=None),
        [f"{TRANSFORMER}: missing tensor 'layers.1.attention.to_q.weight', expected shape [64, 64]"],
    ),
    "misshapen tensor": (
        "small",
        tensors(TRANSFORMER, x_pad_token=torch.zeros(1, 65)),
        [f"{TRANSFORMER}: tensor 'x_pad_token' has shape [1, 65], expected [1, 64]"],
    ),
    "unexpected tensor": (
        "small",
        tensors(TRANSFORMER, layers__9__attention__to_q__weight=torch.zeros(64, 64)),
        [f"{TRANSFORMER}: unexpected tensor 'layers.9.attention.to_q.weight'"],
    ),
    "tensor of a type that needs scales": (
        "small",
        tensors(TRANSFORMER, x_pad_token=torch.zeros(1, 64, dtype=torch.float8_e4m3fn)),
        [f"{TRANSFORMER}: tensor 'x_pad_token' is stored as F8_E4M3, expected BF16"],
    ),
    "several misshapen tensors": (
        "small",
        tensors(TRANSFORMER, x_pad_token=torch.zeros(1, 65), cap_pad_token=torch.zeros(1, 65)),
        ["cap_pad_token' has shape [1, 65], expected [1, 64] (and 1 more: 'x_pad_token')"],
    ),
    "many missing tensors": (
        "small",
        tensors(TRANSFORMER, **{f"layers__1__attention__to_{part}__weight": None for part in "qkv"}),
        [
            "missing tensor 'layers.1.attention.to_q.weight', expected shape [64, 64]",
            "(and 2 more: 'layers.1.attention.to_k.weight', 'layers.1.attention.to_v.weight')",
        ],
    ),
    "truncated file": (
        "small",
        truncate(TRANSFORMER),
        [f"{TRANSFORMER}: truncated: ", " bytes of ", ": download it again"],
    ),
    "truncated in its header": (
        "small",
        lambda root: (root / TRANSFORMER).write_bytes((root / TRANSFORMER).read_bytes()[:1000]),
        [f"{TRANSFORMER}: truncated: 1,000 bytes of "],
    ),
    "not safetensors": ("small", write_bytes(TRANSFORMER, b"\1" * 99), [f"{TRANSFORMER}: truncated or not"]),
    "a refusal in words": (
        "small",
        write(TRANSFORMER, "Access to model x/y is restricted.\nLog in."),
        [f"{TRANSFORMER}: is text that begins with 'Access to model x/y is restricted.': download it again"],
    ),
    "a web page": ("small", write(TRANSFORMER, "\n<!DOCTYPE html>"), [f"{TRANSFORMER}: is a web page", "log in"]),
    "an answer of S3": ("small", write(TRANSFORMER, '<?xml version="1.0"?><Error>'), [f"{TRANSFORMER}: is a web page"]),
    "an empty file": ("small", write(TRANSFORMER, ""), [f"{TRANSFORMER}: is empty: download it again"]),
    "a file of zeros": ("small", write_bytes(TRANSFORMER, bytes(4096)), [f"{TRANSFORMER}: is zeros, where"]),
    "a pickle by another name": (
        "small",
        lambda root: torch.save({"x": torch.zeros(2)}, root / TRANSFORMER),
        [f"{TRANSFORMER}: is a zip archive, as torch.save makes it", "convert it to safetensors"],
    ),
    "an old pickle by another name": (
        "small",
        lambda root: torch.save([torch.zeros(2)], root / TRANSFORMER, _use_new_zipfile_serialization=False),
        [f"{TRANSFORMER}: is a Python pickle", "convert it to safetensors"],
    ),
    "another format by another name": ("small", write(TRANSFORMER, "GGUF\3\0\0\0"), [f"{TRANSFORMER}: is a GGUF file"]),
    "a pointer of Git LFS": ("small", write(TRANSFORMER, POINTER), [f"{TRANSFORMER}: is a Git LFS", "`git lfs pull`"]),
    "a pointer of Git LFS as index": ("small", write("model_index.json", POINTER), ["model_index.json: is a Git LFS"]),
    "a pointer of Git LFS as config": ("small", write("vae/config.json", POINTER), ["vae/config.json: is a Git LFS"]),
    "a pointer of Git LFS as tokenizer": (
        "small",
        write("tokenizer/tokenizer.json", POINTER),
        ["tokenizer/tokenizer.json: is a Git LFS"],
    ),
    "a pointer of Git LFS as template": (
        "small",
        write("tokenizer/chat_template.jinja", POINTER),
        ["tokenizer/chat_template.jinja: is a Git LFS"],
    ),
    "a pointer of Git LFS as shard": (
        "wide",
        lambda root: sorted((root / "transformer").glob("*.safetensors"))[1].write_text(POINTER),
        ["transformer/diffusion_pytorch_model-00002-of-", ": is a Git LFS"],
    ),
    "a pointer of git-annex": (
        "small",
        write(TRANSFORMER, "/annex/objects/SHA256E-s12309866400--4665fc.safetensors\n"),
        [f"{TRANSFORMER}: is a git-annex pointer", "`git annex get`"],
    ),
    "a link of git-annex": (
        "small",
        link(TRANSFORMER, "../.git/annex/objects/x1/SHA256E-s1--1.safetensors"),
        [f"{TRANSFORMER}: is a link to ../.git/annex/objects/x1/", "which is not there: run `git annex get`"],
    ),
    "a pointer of Git LFS from an editor": (
        "small",
        write_bytes(TRANSFORMER, codecs.BOM_UTF8 + POINTER.replace("\n", "\r\n").encode()),
        [f"{TRANSFORMER}: is a Git LFS"],
    ),
    "a pointer of Git LFS from PowerShell": (
        "small",
        write_bytes("vae/config.json", POINTER.encode("utf-16")),
        ["vae/config.json: is a Git LFS"],
    ),
    "a pointer of git-annex where there are no links": (
        "small",
        write(TRANSFORMER, "../../.git/annex/objects/x1/Qz/SHA256E-s1--1.safetensors"),
        [f"{TRANSFORMER}: is a git-annex pointer"],
    ),
    "a refusal in Chinese": (
        "small",
        write(TRANSFORMER, "模型不存在，请登录。" * 99),
        [f"{TRANSFORMER}: is text that begins with '模型不存在，", "download it again"],
    ),
    "a refusal in JSON": (
        "small",
        write(TRANSFORMER, '{"error": "Repository not found"}'),
        [f'{TRANSFORMER}: is text that begins with \'{{"error": '],
    ),
    "a web page that begins otherwise": (
        "small",
        write(TRANSFORMER, "<!-- 404 -->\n<html>"),
        [f"{TRANSFORMER}: is a web page"],
    ),
    "a line's end alone": ("small", write(TRANSFORMER, "\r\n"), [f"{TRANSFORMER}: is empty: download it again"]),
    "a download that has not ended": (
        "small",
        rename(TRANSFORMER, f"{TRANSFORMER}.part"),
        [f"{TRANSFORMER}.part: is a download that has not ended: download it again"],
    ),
    "a config whose download has not ended": (
        "small",
        rename("vae/config.json", "vae/config.json.incomplete"),
        ["vae/config.json: is missing, and config.json.incomplete is there"],
    ),
    "a shard whose download has not ended": (
        "wide",
        unfinished_shard,
        ["transformer/diffusion_pytorch_model-00002-of-", "safetensors.crdownload is there, a download", "expects"],
    ),
    "a download of aria2 that has not ended": (
        "small",
        write(f"{TRANSFORMER}.aria2", "x"),
        [f"{TRANSFORMER}: its download by aria2 has not ended"],
    ),
    "a tokenizer with a byte order mark": (
        "small",
        mark("tokenizer/tokenizer.json"),
        ["tokenizer/tokenizer.json: begins with a byte order mark", "without one"],
    ),
    "a template with a byte order mark": (
        "small",
        mark("tokenizer/chat_template.jinja"),
        ["tokenizer/chat_template.jinja: begins with a byte order mark"],
    ),
    "a pointer of Xet": ("small", write(TRANSFORMER, "# xet version 0\nfilesize = 1\n"), ["is a Git-Xet pointer"]),
    "a link to nothing": ("small", link("vae/config.json", "../blobs/4665fc"), ["is a link to ../blobs/4665fc, which"]),
    "no weights": (
        "small",
        remove(TRANSFORMER),
        ["transformer: missing weights, expected diffusion_pytorch_model.safe"],
    ),
    "pickled weights only": (
        "small",
        rename(TRANSFORMER, "transformer/diffusion_pytorch_model.bin"),
        ["transformer: holds only .bin weights, expected diffusion_pytorch_model.safetensors"],
    ),
    "missing shard": (
        "wide",
        lambda root: sorted((root / "text_encoder").glob("*.safetensors"))[1].unlink(),
        ["text_encoder/model-00002-of-", "missing shard", "model.safetensors.index.json expects tensor"],
    ),
    "truncated shard": (
        "wide",
        lambda root: truncate(f"transformer/{sorted((root / 'transformer').glob('*.safetensors'))[1].name}")(root),
        ["transformer/diffusion_pytorch_model-00002-of-", ": truncated: "],
    ),
    "tensor missing from its shard": (
        "wide",
        lambda root: tensors(
            "text_encoder/"
            + json.loads((root / TEXT_INDEX).read_text())["weight_map"]["model.layers.1.mlp.up_proj.weight"],
            model__layers__1__mlp__up_proj__weight=None,
        )(root),
        ["text_encoder/model-0000", "missing tensor 'model.layers.1.mlp.up_proj.weight', expected shape [96, 48]"],
    ),
    "index without a map": ("wide", edit(TEXT_INDEX, weight_map=...), [TEXT_INDEX, "missing field 'weight_map'"]),
    "index with an empty map": ("wide", edit(TEXT_INDEX, weight_map={}), [TEXT_INDEX, "weight_map is empty"]),
    "index that names a file elsewhere": (
        "wide",
        edit(TEXT_INDEX, weight_map={"norm.weight": "../other/model.safetensors"}),
        [TEXT_INDEX, "'norm.weight'", 'is "../other/model.safetensors", expected the name of a file beside it'],
    ),
    "no tokenizer": ("small", remove_folder("tokenizer"), ["tokenizer/tokenizer.json: missing file"]),
    "broken tokenizer": ("small", write("tokenizer/tokenizer.json", "{}"), ["tokenizer: no tokenizer"]),
    "no chat template": (
        "small",
        drop_chat_template,
        ["tokenizer/tokenizer_config.json: missing field 'chat_template'"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_checkpoint_is_refused(checkpoints: dict[str, Path], tmp_path: Path, case: str) -> None:
    source, break_it, expected = CASES[case]
    root = tmp_path / "checkpoint"
    shutil.copytree(checkpoints[source], root)
    break_it(root)

    with pytest.raises(CheckpointError) as caught:
        ZImagePipeline.from_pretrained(root, device="cpu", dtype=torch.float32)

    message = str(caught.value)
    assert message.startswith(str(root))
    assert "\n" not in message
    assert not re.search(r"\b(None|True|False|[A-Z]\w+Error)\b", message)
    for part in expected:
        assert part in message


@pytest.mark.parametrize("path", ["/no/such/checkpoint", "no-such-checkpoint", "a/b/c"])
def test_a_path_that_does_not_exist_is_named(path: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"^{path}: no such directory, expected a checkpoint directory, a hub id"
    ):
        ZImagePipeline.from_pretrained(path, device="cpu")


def test_a_hub_id_that_is_not_to_be_had_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(
        CheckpointError, match=r"^no-such/checkpoint: no such directory, and no such hub id: "
    ) as caught:
        ZImagePipeline.from_pretrained("no-such/checkpoint", device="cpu")

    assert "\n" not in str(caught.value)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()

    with pytest.raises(CheckpointError, match="no such directory"):
        ZImagePipeline.from_pretrained(tmp_path / "model.safetensors", device="cpu")


@pytest.mark.parametrize(
    ("quantization", "complaint"),
    [
        ("int4", "quantization is 'int4', supported: None and 'fp8'"),
        (
            "fp8",
            "^fp8 needs an NVIDIA GPU of compute capability 8.9 or newer .* the CPU is none; without quantization",
        ),
    ],
)
def test_an_unsupported_quantization_is_refused(
    checkpoints: dict[str, Path], quantization: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        ZImagePipeline.from_pretrained(checkpoints["small"], device="cpu", quantization=quantization)


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ("banana", "device is 'banana', expected cpu, cuda or cuda:N"),
        ("meta", "device is 'meta', expected cpu, cuda or cuda:N"),
        ("cuda:99", r"device is cuda:99, and this machine has .+; cpu works without one"),
    ],
)
def test_a_device_that_is_not_there_is_told(checkpoints: dict[str, Path], device: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ZImagePipeline.from_pretrained(checkpoints["small"], device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_the_default_device_is_not_there(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="device is cuda, and this machine has no CUDA device; cpu works without one"):
        ZImagePipeline.from_pretrained(checkpoints["small"])


def test_a_cpu_may_have_a_number(checkpoints: dict[str, Path]) -> None:
    pipe = ZImagePipeline.from_pretrained(checkpoints["small"], device="cpu:0", dtype=torch.float32)

    assert pipe("a cat", height=64, width=64).float().std() > 10


@pytest.mark.parametrize("inner", ["", "vae"])
def test_another_vae_can_be_given(checkpoints: dict[str, Path], tmp_path: Path, inner: str) -> None:
    shutil.copytree(checkpoints["small"] / "vae", tmp_path / "other" / inner, dirs_exist_ok=True)
    path = str(Path("other") / inner / "diffusion_pytorch_model.safetensors")
    tensors(path, decoder__conv_out__bias=torch.full((3,), 100.0))(tmp_path)

    pipe = ZImagePipeline.from_pretrained(
        checkpoints["small"], device="cpu", dtype=torch.float32, vae_path=tmp_path / "other"
    )

    assert (pipe("a cat", height=64, width=64) == 255).all()


def test_weights_stay_as_stored_until_they_settle(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Not before: float32 files would fill a card of 16 GB that has room for what is made of them."""
    shutil.copytree(checkpoints["small"] / "vae", tmp_path / "vae")
    half = torch.zeros(3, dtype=torch.bfloat16)
    tensors("vae/diffusion_pytorch_model.safetensors", decoder__conv_out__bias=half)(tmp_path)
    cpu = torch.device("cpu")

    loaded = autoencoder_weights(tmp_path / "vae").load(cpu, dtype=None)

    stored = {name for name, weight in loaded.named_parameters() if weight.dtype != torch.float32}
    assert stored == {"decoder.conv_out.bias"}
    expected = {name: weight.bfloat16() for name, weight in loaded.named_parameters()}
    settle_(loaded, cpu)
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, expected[name]), name


def test_weights_take_the_type_asked_for(checkpoints: dict[str, Path]) -> None:
    pipe = ZImagePipeline.from_pretrained(checkpoints["small"], device="cpu", dtype=torch.bfloat16)

    for module in (pipe.transformer, pipe.autoencoder, pipe.text_encoder.model):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert pipe("a cat", height=64, width=64).float().std() > 10
