"""The features of the last prompts: who asks for a picture often asks for another one of the same prompt.

They are given again within one scope alone (`Drawing.cache_scope`): a prompt that is there takes less time, and would
tell whoever draws it that somebody else has drawn it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline.model.text_encoder import TextFeatures

if TYPE_CHECKING:
    from pipeline.recipe import Parts, Recipe

KEPT_PROMPTS = 64  # of all scopes; at Turbo's width 5 KB a token: 20 MB for usual prompts, 168 MB at most


def remembering(encode: Callable[[str, str], TextFeatures]) -> Callable[[str, str], TextFeatures]:
    """Keep what `encode` gives for the last 64 prompts, with their scopes.

    Asked for again, the same tensor is given: don't change it.
    """
    kept = lru_cache(KEPT_PROMPTS)(encode)

    def encode_or_remember(prompt: str, scope: str) -> TextFeatures:
        hits = kept.cache_info().hits
        features = kept(prompt, scope)
        return replace(features, reused=kept.cache_info().hits > hits)

    return encode_or_remember


def wrap(parts: "Parts", _recipe: "Recipe") -> None:
    """Put it around the encoding of prompts."""
    parts.encode = remembering(parts.encode)
