import subprocess
import sys

import pytest
import torch

from pipeline import ZImagePipeline
from support.parity import Pair, relative_error

TEMPLATE_TOKENS = 19  # <|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n, a token for each byte between markers


@torch.inference_mode()
@pytest.mark.parametrize(
    "prompt",
    [
        "x",
        "a fox in the snow",
        "13 characters",
        "造相 ☃ émigré",
        "  spaces\tand\n\nlines ",
        "y" * 493,
        "z" * 494,
        "w" * 900,
    ],
)
def test_features_equal_diffusers(pair: Pair, prompt: str) -> None:
    [expected], _ = pair.theirs.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)

    text = pair.ours.text_encoder.encode(prompt)

    assert text.features.shape == (min(text.tokens, 512), 48)
    assert relative_error(text.features, expected) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize(("length", "warnings"), [(493, 0), (494, 1)])
def test_a_cut_prompt_is_told(small: ZImagePipeline, length: int, warnings: int) -> None:
    text = small.text_encoder.encode("p" * length)

    assert text.tokens == TEMPLATE_TOKENS + length
    assert text.warnings == ["prompt has 513 tokens; the model reads the first 512"] * warnings


def test_the_last_layer_and_norm_are_not_loaded(small: ZImagePipeline) -> None:
    names = dict(small.text_encoder.model.named_parameters())

    assert any(name.startswith("layers.1.") for name in names)
    assert not any(name.startswith(("layers.2.", "norm.")) for name in names)


def test_loading_and_drawing_import_no_compiler() -> None:
    """torch._dynamo and sympy take seconds of each start of a worker, and one careless call imports them."""
    draw = (
        "import sys; from pipeline import TINY_CHECKPOINT, ZImagePipeline\n"
        "ZImagePipeline.from_pretrained(TINY_CHECKPOINT, 'cpu')('x', height=64, width=64, num_inference_steps=1)\n"
        "print({'torch._dynamo', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", draw], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr
