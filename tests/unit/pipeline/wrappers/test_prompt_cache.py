from pathlib import Path

import torch

from pipeline import ZImagePipeline
from pipeline.wrappers.prompt_cache import KEPT_PROMPTS


@torch.inference_mode()
def test_features_of_the_last_prompts_are_kept(checkpoints: dict[str, Path]) -> None:
    encoder = ZImagePipeline.from_pretrained(checkpoints["small"], device="cpu", dtype=torch.float32).text_encoder
    first = encoder.encode("first")

    again = encoder.encode("first")
    assert again.features is first.features
    assert (first.reused, again.reused) == (False, True)
    for number in range(KEPT_PROMPTS):
        assert not encoder.encode(f"another {number}").reused
    again = encoder.encode("first")
    assert not again.reused
    assert torch.equal(again.features, first.features)


@torch.inference_mode()
def test_no_scope_is_given_features_of_another_and_all_together_are_bounded(checkpoints: dict[str, Path]) -> None:
    encoder = ZImagePipeline.from_pretrained(checkpoints["small"], device="cpu", dtype=torch.float32).text_encoder
    first = encoder.encode("a prompt", "alice")

    other = encoder.encode("a prompt", "bob")
    assert not other.reused
    assert torch.equal(other.features, first.features)
    assert encoder.encode("a prompt", "alice").reused
    assert encoder.encode("a prompt", "bob").reused
    assert not encoder.encode("bob", "a prompt").reused
    for number in range(KEPT_PROMPTS):
        encoder.encode("a prompt", f"scope {number}")
    assert not encoder.encode("a prompt", "alice").reused
