"""Tensors that a file holds besides the model's: what says nothing of the picture is told of and passed over."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import CheckpointError, ZImagePipeline
from pipeline.checkpoint.components import text_encoder_weights, transformer_weights
from pipeline.checkpoint.quantized import write_quantized_checkpoint

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
ONE = torch.tensor(2.6592)


def with_tensors(root: Path, file: str, tensors: dict[str, Tensor]) -> None:
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file({**load_file(root / file), **own}, root / file, metadata={"format": "pt"})


@pytest.fixture
def root(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(checkpoints["small"], tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("text_encoders.qwen3_4b.logit_scale", ()),
        ("text_encoders.qwen3_4b.transformer.model.rotary_emb.inv_freq", (64,)),
        ("cond_stage_model.embeddings.position_ids", (1, 77)),
        ("rotary_emb.inv_freq", (64,)),
        ("layers.0.attention.rotary_emb.inv_freq", (64,)),
        ("layers.0.attention.logit_scale", (1,)),
        ("model_ema.decay", ()),
        ("model_ema.num_updates", ()),
        ("model_ema.diffusion_modellayers0attentionto_qweight", (64, 64)),
        ("ema.layers.0.attention.to_q.weight", (64, 64)),
        ("vae.bn.num_batches_tracked", ()),
        ("global_step", ()),
        ("scaled_fp8", (0,)),
        ("model.diffusion_model.scaled_fp8", (2,)),
    ],
)
def test_what_training_and_saving_left_is_told_and_passed_over(
    root: Path, caplog: pytest.LogCaptureFixture, name: str, shape: tuple[int, ...]
) -> None:
    with_tensors(root, TRANSFORMER, {name: torch.ones(shape)})

    weights = transformer_weights(root / "transformer")

    assert name not in weights.files.tensors
    (told,) = caplog.messages
    assert told.startswith(str(root / TRANSFORMER))
    assert repr(name) in told


def test_it_draws_the_same_picture(root: Path, small: ZImagePipeline, caplog: pytest.LogCaptureFixture) -> None:
    with_tensors(root, TRANSFORMER, {f"text_encoders.qwen3_4b.{index}.logit_scale": ONE for index in range(5)})
    with_tensors(root, TRANSFORMER, {"nothing": torch.empty(0)})
    with_tensors(root, TEXT_ENCODER, {"rotary_emb.inv_freq": torch.ones(8), "lm_head.weight": torch.ones(300, 48)})

    found = ZImagePipeline.from_pretrained(root, device="cpu", dtype=torch.float32)

    asked = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 1}
    assert torch.equal(found(**asked), small(**asked))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert "(and 5 more: " in told[0]
    assert "'rotary_emb.inv_freq': passed over" in told[1]


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("layers.9.attention.to_q.weight", torch.zeros(64, 64)),
        ("layers.0.attention.to_q.lora_A.weight", torch.zeros(4, 64)),
        ("layers.0.attention.to_q.alpha", ONE),  # the scale of a side path
        ("layers.0.attention.to_q.bias", torch.zeros(64)),
        ("lora_unet_layers_0_attention_to_q.lora_down.weight", torch.zeros(4, 64)),
        ("control_layers.0.attention.to_q.weight", torch.zeros(64, 64)),
        ("control_layers.0.scale.weight", torch.zeros(1)),
        ("siglip_embedder.0.weight", torch.zeros(2)),
        ("text_encoders.qwen3_4b.transformer.model.norm.weight", torch.zeros(48)),
        ("vae.decoder.conv_in.weight", torch.zeros(8, 16, 3, 3)),
        ("layers.0.ema.weight", torch.zeros(64)),
        ("text_encoders.qwen3_4b.logit_scale", torch.zeros(64, 64)),
        ("layers.0.attention.logit_scale", torch.zeros(2)),  # of cosine attention, a number a head
        ("vae.bn.num_batches_tracked", torch.zeros(64, 64)),
        ("embeddings.position_ids", torch.zeros(64, 64)),
        ("rotary_emb.inv_freq", torch.zeros(2, 16)),
        ("scaled_fp8", torch.zeros(64, 64)),
        ("ema.layers.0.attention.to_q.lora_A.weight", torch.zeros(4, 64)),
    ],
)
def test_what_could_be_a_weight_is_refused(root: Path, name: str, tensor: Tensor) -> None:
    with_tensors(root, TRANSFORMER, {name: tensor, "model_ema.decay": ONE})

    with pytest.raises(CheckpointError, match=f"unexpected tensor '{name}', the model has none such$"):
        transformer_weights(root / "transformer")


def test_of_another_model_the_first_few_are_named(root: Path) -> None:
    names = [f"control_layers.{index:02}.attention.to_q.weight" for index in range(30)]
    with_tensors(root, TRANSFORMER, {name: torch.zeros(64, 64) for name in names})

    with pytest.raises(CheckpointError) as told:
        transformer_weights(root / "transformer")
    assert str(told.value).endswith(
        f"unexpected tensor {names[0]!r}, the model has none such (and 29 more: {names[1]!r}, {names[2]!r}, …)"
    )


def test_a_stray_never_hides_what_is_missing(root: Path) -> None:
    state = load_file(root / TRANSFORMER)
    del state["x_pad_token"]
    save_file({**state, "text_encoders.qwen3_4b.logit_scale": ONE}, root / TRANSFORMER)

    with pytest.raises(CheckpointError, match="missing tensor 'x_pad_token'"):
        transformer_weights(root / "transformer")


def test_a_quantised_checkpoint_is_made_without_them(root: Path, tmp_path: Path) -> None:
    marker = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    with_tensors(root, TRANSFORMER, {**marker, "model_ema.decay": ONE})

    write_quantized_checkpoint(root, tmp_path / "fp8")

    assert not {"scaled_fp8", "model_ema.decay"} & load_file(tmp_path / "fp8" / TRANSFORMER).keys()
    assert text_encoder_weights(tmp_path / "fp8" / "text_encoder")
