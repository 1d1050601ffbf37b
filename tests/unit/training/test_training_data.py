"""What the networks are trained on: captions that are not kept for tests, as the pipeline would read them."""

from functools import cache

import pytest
import torch

from pipeline import TINY_CHECKPOINT, ZImagePipeline
from training import pictures
from training.model import TextToLatents, tokenize
from training.scenes import held_out

CAPTIONS = [
    "a small red circle on blue",
    "一个黄色心形在一个青色圆形的左边,从红色到紫色的渐变背景",
    'draw the word "EDN" in blue on white',
]


@cache
def bundled() -> ZImagePipeline:
    return ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cpu", dtype=torch.float32)


def test_no_caption_that_is_kept_for_tests_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def captions() -> list[str]:
        return pictures._make_chunk((500, 64, 64, 3))[1]

    assert not any(map(held_out, captions()))
    monkeypatch.setattr(pictures, "held_out", lambda _: False)
    assert any(map(held_out, captions()))


@torch.inference_mode()
def test_the_networks_answer_in_training_as_in_the_pipeline() -> None:
    torch.manual_seed(0)
    pipe, trained = bundled(), TextToLatents(TINY_CHECKPOINT)
    trained.transformer.load_state_dict(pipe.transformer.state_dict())
    # The pipeline has no last layer, whose input is what the transformer reads.
    assert not trained.text_encoder.load_state_dict(pipe.text_encoder.model.state_dict(), strict=False).unexpected_keys

    latents, timestep = torch.randn(3, 16, 12, 16), torch.tensor([0.0, 0.3, 0.7])
    ids, lengths = tokenize(pipe.text_encoder.tokenizer, CAPTIONS)
    features = [pipe.text_encoder.encode(caption).features for caption in CAPTIONS]
    wanted = pipe.transformer(latents, timestep, pipe.transformer.prepare(features, 12, 16))
    assert torch.allclose(trained(latents, timestep, ids, lengths), wanted, atol=1e-3)


def test_a_caption_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a red star and so on, .* at most 32"):
        tokenize(bundled().text_encoder.tokenizer, ["a red star and so on, for ever and ever and ever, until morning"])
