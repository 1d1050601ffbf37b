from typing import Any

import pytest

from pipeline import Drawing, StepCache, ZImagePipeline
from pipeline.skipping import PRESETS, Choice


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, None),
        ("off", None),
        ("quality", PRESETS["quality"]),
        ({}, StepCache(1, 0, 4, 0.24, 3, None, 0, False)),
        ({"last": 2, "mask": "1101"}, StepCache(last=2, mask="1101")),
        (StepCache(warmup=0), StepCache(warmup=0)),
    ],
)
def test_a_choice_is_a_preset_or_fields_or_nothing(choice: Choice, meant: StepCache | None) -> None:
    assert StepCache.of(choice) == meant


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("faster", "step_cache is 'faster', expected off, quality, fast, or an object"),
        (True, "step_cache is True, expected"),
        ({"rank": 1}, "step_cache.rank is unknown, expected one of first, last, warmup, threshold, max_skips, mask,"),
        ({"first": 0}, "step_cache.first is 0, expected a whole number of 1 or more"),
        ({"first": True}, "step_cache.first is True"),
        ({"last": -1}, "step_cache.last is -1, expected a whole number of 0 or more"),
        ({"warmup": 1.5}, "step_cache.warmup is 1.5"),
        ({"max_skips": "3"}, "step_cache.max_skips is '3'"),
        ({"threshold": -0.1}, "step_cache.threshold is -0.1, expected a number of 0 or more"),
        ({"threshold": float("nan")}, "step_cache.threshold is nan"),
        ({"threshold": float("inf")}, "step_cache.threshold is inf"),
        ({"mask": ""}, "step_cache.mask is '', expected a text of 1 and 0 that begins with 1"),
        ({"mask": "01"}, "step_cache.mask is '01'"),
        ({"mask": "1x"}, "step_cache.mask is '1x'"),
        ({"mask": [1, 0]}, r"step_cache.mask is \[1, 0\]"),
        ({"taylor_order": 3}, "step_cache.taylor_order is 3, expected 0, 1 or 2"),
        ({"protect_last": 1}, "step_cache.protect_last is 1, expected true or false"),
    ],
)
def test_what_is_out_of_range_is_named(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepCache.of(choice)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"mask": "1101"}, "step_cache.mask has 4 characters, expected 3, one for each of the steps"),
        ({"first": 1, "last": 1}, "first and step_cache.last are 1 and 1, expected less than the model's 2 layers"),
        ("best", "step_cache is 'best'"),
    ],
)
def test_what_does_not_fit_the_picture_or_the_model_is_refused(
    small: ZImagePipeline, choice: Choice, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small.generate(Drawing("a cat", height=64, width=64, num_inference_steps=3, step_cache=choice))
