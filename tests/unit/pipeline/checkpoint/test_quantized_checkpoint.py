"""A checkpoint quantised into files is what quantising at load makes of the original, and loads everywhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_comfyui import COMFYUI, comfyui
from torch import Tensor, nn

from pipeline import CheckpointError, ZImagePipeline
from pipeline.checkpoint.components import text_encoder_weights, transformer_weights
from pipeline.checkpoint.quantized import write_quantized_checkpoint
from pipeline.formats.fp8 import E4M3, FP8, Fp8Matrix
from pipeline.formats.quantizing import matrix, quantize_, quantized_weight, settle_
from support.bfloat16_checkpoint import write_bfloat16_checkpoint

CPU = torch.device("cpu")
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    write_bfloat16_checkpoint(root)
    return root


@pytest.fixture(scope="module")
def quantized(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantized")
    write_quantized_checkpoint(original, root)
    return root


def tensors(folder: Path) -> dict[str, Tensor]:
    return {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}


def matrices(root: Path, *, quantize: bool) -> dict[str, nn.Module]:
    """The products that the fused paths make of a checkpoint, by name."""
    transformer = transformer_weights(root / "transformer").load(CPU, dtype=None)
    encoder = text_encoder_weights(root / "text_encoder").load(CPU, dtype=None)
    if quantize:
        quantize_(transformer, "", FP8, CPU)
        quantize_(encoder, "", FP8, CPU)
    made: dict[str, nn.Module] = {}
    for stack in ("noise_refiner", "layers"):
        for i, block in enumerate(getattr(transformer, stack)):
            attention, feed_forward = block.attention, block.feed_forward
            made[f"{stack}.{i}.qkv"] = matrix(attention.to_q, attention.to_k, attention.to_v)
            made[f"{stack}.{i}.out"] = matrix(attention.to_out[0])
            made[f"{stack}.{i}.w13"] = matrix(feed_forward.w1, feed_forward.w3)
            made[f"{stack}.{i}.w2"] = matrix(feed_forward.w2)
    for name, linear in encoder.named_modules():
        if isinstance(linear, nn.Linear):
            made[f"text {name}"] = matrix(linear)
    return made


def test_its_matrices_are_those_quantised_at_load(original: Path, quantized: Path) -> None:
    found, expected = matrices(quantized, quantize=False), matrices(original, quantize=True)

    assert len(found) == len(expected) == 4 * (1 + 3) + 2 * 7
    for name in expected:
        ours, theirs = found[name], expected[name]
        assert isinstance(ours, Fp8Matrix), name
        assert isinstance(theirs, Fp8Matrix), name
        assert ours.values.dtype == E4M3.dtype
        assert torch.equal(ours.values.view(torch.uint8), theirs.values.view(torch.uint8)), name
        assert torch.equal(ours.scales, theirs.scales), name


def test_all_else_stays_as_it_is(original: Path, quantized: Path) -> None:
    for component in ("transformer", "text_encoder"):
        before, after = tensors(original / component), tensors(quantized / component)
        scaled = {key for key in before if f"{key}_scale" in after}
        assert after.keys() - before.keys() == {f"{key}_scale" for key in scaled}
        for key, tensor in before.items():
            if key in scaled:
                assert after[key].dtype == E4M3.dtype
                assert after[f"{key}_scale"].dtype == torch.float32
                assert after[f"{key}_scale"].shape == (len(tensor), 1)
            else:
                assert torch.equal(after[key], tensor), key
        config = json.loads((quantized / component / "config.json").read_text())
        group = config.pop("quantization_config")["config_groups"]["group_0"]
        assert {f"{name}.weight" for name in group["targets"]} == scaled
        assert config == json.loads((original / component / "config.json").read_text())
    for path in original.rglob("*"):
        if path.is_file() and path.parent.name not in ("transformer", "text_encoder"):
            assert (quantized / path.relative_to(original)).read_bytes() == path.read_bytes()


def test_what_is_small_or_sensitive_keeps_its_type(quantized: Path) -> None:
    kept = {key for key, tensor in tensors(quantized / "transformer").items() if tensor.dtype == torch.bfloat16}

    assert {key.split(".")[0] for key in kept if tensors(quantized / "transformer")[key].dim() == 2} == {
        "all_final_layer",
        "all_x_embedder",
        "cap_embedder",
        "cap_pad_token",
        "context_refiner",
        "layers",  # their modulation
        "noise_refiner",
        "t_embedder",
        "x_pad_token",
    }
    assert not any("adaLN" not in key and key.startswith("layers.") and "norm" not in key for key in kept)


@pytest.mark.parametrize("stem", ["noise_refiner.1", "layers.29"])
@pytest.mark.parametrize(
    "joined", [("attention.to_q", "attention.to_k", "attention.to_v"), ("feed_forward.w1", "feed_forward.w3")]
)
def test_what_is_one_product_has_one_type(stem: str, joined: tuple[str, ...]) -> None:
    assert len({FP8.takes(f"{stem}.{name}.weight", (3840, 3840)) for name in joined}) == 1


def test_fp8_becomes_bfloat16_where_the_device_has_none(quantized: Path) -> None:
    settled = transformer_weights(quantized / "transformer").load(CPU, dtype=None)
    settle_(settled, CPU)

    expected = transformer_weights(quantized / "transformer").load(CPU, torch.bfloat16).state_dict()
    assert settled.state_dict().keys() == expected.keys()
    for name, tensor in settled.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_draws_where_there_is_no_fp8(original: Path, quantized: Path, dtype: torch.dtype) -> None:
    pipe = ZImagePipeline.from_pretrained(quantized, device="cpu", dtype=dtype)
    assert pipe.quantization is None
    weight = pipe.transformer.get_parameter("layers.1.feed_forward.w2.weight")
    stored = tensors(original / "transformer")["layers.1.feed_forward.w2.weight"]
    assert torch.equal(weight, E4M3.quantize(stored).dequantize(dtype))

    expected = ZImagePipeline.from_pretrained(original, device="cpu", dtype=torch.float32)
    arguments = {"height": 64, "width": 96, "num_inference_steps": 2, "output_type": "latent"}
    found, expected = pipe("a cat", **arguments), expected("a cat", **arguments)
    assert (found - expected).norm() / expected.norm() < 0.1


def test_fp8_is_refused_where_there_is_none(quantized: Path) -> None:
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        ZImagePipeline.from_pretrained(quantized, device="cpu", quantization="fp8")


@pytest.mark.parametrize("layout", ["shards", "ComfyUI"])
def test_other_layouts_give_the_same_matrices(
    original: Path, quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    source = original
    if layout == "shards":
        monkeypatch.setattr("pipeline.checkpoint.quantized.SHARD_BYTES", 600_000)
    else:
        source = tmp_path / "source"
        shutil.copytree(original, source)
        state = load_file(source / TRANSFORMER)
        (source / TRANSFORMER).unlink()
        save_file(comfyui(state, "model.diffusion_model."), source / "transformer" / COMFYUI)

    write_quantized_checkpoint(source, tmp_path / "target")

    found, expected = matrices(tmp_path / "target", quantize=False), matrices(quantized, quantize=False)
    for name in expected:
        for ours, theirs in zip(found[name].buffers(), expected[name].buffers(), strict=True):
            assert torch.equal(ours.float(), theirs.float()), name
    shards = list((tmp_path / "target/transformer").glob("*.safetensors"))
    assert (len(shards) > 1) == (layout == "shards")
    assert all(shard.stat().st_size < 650_000 for shard in shards if layout == "shards")


def test_part_of_a_product_in_fp8_makes_it_none(quantized: Path, tmp_path: Path) -> None:
    shutil.copytree(quantized, tmp_path / "partly")
    state = load_file(quantized / TRANSFORMER)
    name = "layers.0.attention.to_k.weight"
    plain = (state[name].float() * state.pop(f"{name}_scale")).bfloat16()
    save_file({**state, name: plain}, tmp_path / "partly" / TRANSFORMER)

    found = matrices(tmp_path / "partly", quantize=False)

    assert not isinstance(found["layers.0.qkv"], Fp8Matrix)
    assert torch.equal(found["layers.0.qkv"].weight.chunk(3)[1], plain)
    assert isinstance(found["layers.0.out"], Fp8Matrix)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (None, "is stored as F8_E4M3, expected BF16 .* with its scales as 'layers.0.attention.to_q.weight_scale'"),
        (torch.ones(1), r"to_q.weight_scale' has shape \[1\], expected \[96, 1\]"),
        (torch.ones(96, 1, dtype=torch.int32), r"to_q.weight_scale' is stored as I32, expected [\w ]+$"),
    ],
)
def test_wrong_scales_are_refused(quantized: Path, tmp_path: Path, changed: Tensor | None, complaint: str) -> None:
    shutil.copytree(quantized, tmp_path / "broken")
    state = load_file(quantized / TRANSFORMER)
    scale = "layers.0.attention.to_q.weight_scale"
    state.pop(scale)
    save_file(state if changed is None else {**state, scale: changed}, tmp_path / "broken" / TRANSFORMER)

    with pytest.raises(CheckpointError, match=complaint):
        ZImagePipeline.from_pretrained(tmp_path / "broken", device="cpu")


def test_a_scale_without_fp8_is_refused(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "broken")
    state = {**load_file(original / TRANSFORMER), "layers.0.attention.to_q.weight_scale": torch.ones(96, 1)}
    save_file(state, tmp_path / "broken" / TRANSFORMER)

    with pytest.raises(CheckpointError, match=r"unexpected tensor 'layers.0.attention.to_q.weight_scale'"):
        ZImagePipeline.from_pretrained(tmp_path / "broken", device="cpu")


def test_what_can_not_be_quantised_leaves_nothing(original: Path, quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"in fp8 already, as '.*' is, expected another checkpoint"):
        write_quantized_checkpoint(quantized, tmp_path / "twice")
    with pytest.raises(CheckpointError, match=r"model_index.json: missing file"):
        write_quantized_checkpoint(tmp_path, tmp_path / "nothing")
    broken = tmp_path / "broken"
    shutil.copytree(original, broken)
    shard = next((broken / "text_encoder").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        write_quantized_checkpoint(broken, tmp_path / "target")

    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"vae/.* is text that begins with '\{\}'"):
        write_quantized_checkpoint(broken, tmp_path / "target")
    shutil.rmtree(broken / "scheduler")
    with pytest.raises(CheckpointError, match=r"scheduler_config.json: missing file"):
        write_quantized_checkpoint(broken, tmp_path / "target")
    with pytest.raises(CheckpointError, match=r"is within .*, expected another place"):
        write_quantized_checkpoint(original, original / "fp8")

    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
    assert not (original / "fp8").exists()


def test_everyone_can_read_it(quantized: Path) -> None:
    assert {oct(path.stat().st_mode & 0o777) for path in quantized.rglob("*.safetensors")} == {"0o644"}


def test_a_directory_in_use_is_refused(original: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(FileExistsError, match="is not empty"):
        write_quantized_checkpoint(original, tmp_path)


def test_a_row_keeps_its_largest_value() -> None:
    weight = torch.randn(32, 48).bfloat16() * torch.logspace(-6, 3, 32)[:, None].bfloat16()
    weight[3] = 0
    linear = nn.Linear(48, 32, bias=False).bfloat16()
    linear.weight.data = weight

    quantize_(linear, "layers.0.attention.to_q", FP8, CPU)

    restored = quantized_weight(linear).dequantize(torch.float32)
    largest = weight.float().abs().amax(1)
    assert torch.allclose(restored.abs().amax(1), largest, rtol=1e-6)
    assert ((restored - weight.float()).abs().amax(1) <= largest / 16).all()
