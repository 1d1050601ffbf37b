"""OpenAI's request: what its clients send by themselves, and what becomes of it."""

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.openai.request import ImagesRequest
from api.problems import ProblemError
from jobs.model_card import SizeLimits, size_limits
from jobs.spec import MAX_SEED, JobRequest

TINY = size_limits("tiny")


def asked(**fields: Any) -> ImagesRequest:
    return ImagesRequest.model_validate({"prompt": "a cat", **fields})


def job(sizes: SizeLimits = TINY, **fields: Any) -> JobRequest:
    return asked(**fields).job_request(sizes)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "dall-e-3", "n": 1, "size": "1024x1024", "quality": "standard", "response_format": "b64_json"},
        {"quality": "auto", "background": "auto", "moderation": "auto", "output_format": "png", "n": 1, "size": "auto"},
        {"output_compression": 100, "partial_images": 0, "stream": False, "user": "me", "safety_identifier": "us"},
        dict.fromkeys(ImagesRequest.model_fields.keys() - {"prompt"}),
    ],
    ids=["dall-e-3", "gpt-image", "gpt-image, the rest", "null"],
)
def test_defaults_of_openai_s_models_are_taken_without_a_word(fields: dict[str, Any]) -> None:
    assert asked(**fields).warnings == []
    plain, given = job(), job(**{**fields, "size": None})
    assert given.model_dump(exclude={"metadata"}) == plain.model_dump(exclude={"metadata"})


@pytest.mark.parametrize(
    "fields",
    [{"style": value} for value in ("vivid", "natural")]
    + [{"quality": value} for value in ("hd", "low", "medium", "high", "xhigh", "max")]
    + [{"complexity": "high"}],
)
def test_what_has_no_effect_is_told_once(fields: dict[str, Any]) -> None:
    [told] = asked(**fields).warnings
    assert told.startswith(f"{next(iter(fields))} has no effect: ")
    assert job(**fields) == job()


def test_each_field_without_effect_is_told() -> None:
    assert len(asked(style="vivid", quality="hd", complexity="low").warnings) == 3


@pytest.mark.parametrize(
    ("fields", "answered_by"),
    [
        ({}, "b64_json"),
        ({"model": None}, "b64_json"),
        ({"model": "gpt-image-1"}, "b64_json"),
        ({"model": "my-dall-e-3"}, "b64_json"),
        ({"model": "dall-e-2"}, "url"),
        ({"model": "dall-e-3", "response_format": None}, "url"),
        ({"model": "dall-e-3", "response_format": "b64_json"}, "b64_json"),
        ({"model": "gpt-image-1", "response_format": "url"}, "url"),
    ],
)
def test_images_come_as_from_openai_s_model_of_that_name(fields: dict[str, Any], answered_by: str) -> None:
    assert asked(**fields).answered_by == answered_by


@pytest.mark.parametrize(("size", "width", "height"), [(None, None, None), ("auto", None, None), ("64x1024", 64, 1024)])
def test_the_size_is_said_or_left_to_the_served_model(size: str | None, width: int | None, height: int | None) -> None:
    assert (job(size=size).width, job(size=size).height) == (width, height)


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ("100000x10000", ["width", "height"]),
        ("1040x64", ["width"]),
        ("64x0", ["height"]),
        ("128x999999999999999999", ["height"]),
        (f"1{'0' * 40}x128", ["width"]),
        (f"128x1{'0' * 5000}", ["height"]),
    ],
)
def test_a_size_out_of_bounds_is_told_the_bounds(size: str, sides: list[str]) -> None:
    with pytest.raises(ProblemError) as refused:
        job(size=size)
    assert [(error.pointer, error.detail) for error in refused.value.errors or ()] == [
        (f"/size/{side}", "the served model draws 64 to 1024 pixels") for side in sides
    ]


@pytest.mark.parametrize("size", ["1024", "1024*1024", "1024X1024", "1:1", "-64x64", "064x64", "64x64\n", "", 1024])
def test_a_size_of_another_form_is_told_the_form(size: Any) -> None:
    with pytest.raises(ValidationError, match="say WIDTHxHEIGHT in pixels, such as 1024x1024, or auto"):
        asked(size=size)


@pytest.mark.parametrize(
    ("fields", "who"),
    [
        ({"user": "me"}, "me"),
        ({"safety_identifier": "us"}, "us"),
        ({"user": "me", "safety_identifier": "us"}, "us"),
        ({"user": "me", "safety_identifier": ""}, "me"),
    ],
)
def test_who_asked_is_kept_with_the_job(fields: dict[str, Any], who: str) -> None:
    assert job(**fields, metadata={"order": "17"}).metadata == {"order": "17", "user": who}


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"metadata": {"user": "another"}}, "becomes the pair `user` of metadata, which has one already: send one"),
        ({"metadata": dict.fromkeys("0123456789abcdef", "")}, "becomes a pair of metadata: Dictionary should have at"),
        ({"metadata": {"a": "x" * 4090}}, "becomes a pair of metadata: keys and values must be at most 4096 bytes"),
    ],
    ids=["twice", "one pair too many", "too long"],
)
def test_who_asked_is_refused_by_the_name_it_came_under(name: str, fields: dict[str, Any], why: str) -> None:
    with pytest.raises((ValidationError, RequestValidationError)) as refused:
        job(**fields, **{name: "someone"})
    [error] = refused.value.errors()
    assert error["loc"][-1] == name
    assert error["msg"].startswith(why)


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"style": "anime"}, "say the style in the prompt, and leave this out"),
        ({"style": "Vivid"}, "say the style in the prompt, and leave this out"),
        ({"quality": "HD"}, "there is one quality: leave it out"),
        ({"quality": "ultra"}, "there is one quality: leave it out"),
        ({"quality": 1}, "there is one quality: leave it out"),
        ({"complexity": "extreme"}, "the model has no such setting: leave it out"),
    ],
)
def test_other_words_for_what_has_no_effect_are_told_to_be_left_out(fields: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValidationError, match=advice):
        asked(**fields)


def test_the_seeds_of_all_images_are_whole_numbers_of_javascript() -> None:
    assert job(n=8, seed=MAX_SEED).seed == MAX_SEED
    with pytest.raises(RequestValidationError) as refused:
        job(n=10, seed=MAX_SEED)
    [error] = refused.value.errors()
    assert error["loc"] == ("body", "seed")
    assert error["msg"].endswith(f"for 10 images it is at most {2**53 - 10}")
