from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.model.text_encoder import TextFeatures
from pipeline.recipe import Recipe
from pipeline.wrappers.prompt_cache import KEPT_PROMPTS


@pytest.fixture
def encode(checkpoints: dict[str, Path]) -> Callable[[str, str], TextFeatures]:
    return Recipe(checkpoints["small"], torch.device("cpu"), torch.float32, vae=None, number_format=None).build().encode


@torch.inference_mode()
def test_features_of_the_last_prompts_are_kept(encode: Callable[[str, str], TextFeatures]) -> None:
    first = encode("first", "")

    again = encode("first", "")
    assert again.features is first.features
    assert (first.reused, again.reused) == (False, True)
    for number in range(KEPT_PROMPTS):
        assert not encode(f"another {number}", "").reused
    again = encode("first", "")
    assert not again.reused
    assert torch.equal(again.features, first.features)


@torch.inference_mode()
def test_no_scope_is_given_features_of_another_and_all_together_are_bounded(
    encode: Callable[[str, str], TextFeatures],
) -> None:
    first = encode("a prompt", "alice")

    other = encode("a prompt", "bob")
    assert not other.reused
    assert torch.equal(other.features, first.features)
    assert encode("a prompt", "alice").reused
    assert encode("a prompt", "bob").reused
    assert not encode("bob", "a prompt").reused
    for number in range(KEPT_PROMPTS):
        encode("a prompt", f"scope {number}")
    assert not encode("a prompt", "alice").reused
