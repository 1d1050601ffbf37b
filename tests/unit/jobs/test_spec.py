"""A job's request: what follows from its fields, those that come later included."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ValidationError

from jobs.spec import ABILITIES, FIRST_FIELDS, MAX_SEED, JobInput, JobRequest, Trait
from support.demanding import DemandingInput, demanding
from support.golden import GOLDEN

ASKED: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 128, "num_inference_steps": 4, "num_images": 2}


class Early(BaseModel):
    """A field that comes before all others."""

    early: Annotated[str, Trait(picture=True)] = "none"


class EarlyInput(JobInput, Early):
    """As if the field had been added at the top of the request."""


class DearInput(JobInput):
    """With a field that makes jobs dearer."""

    sharpness: Annotated[int, Trait(cost=lambda sharpness, _steps: 1 + sharpness / 2)] = 0


@pytest.mark.parametrize("accepted", GOLDEN["digests"], ids=lambda accepted: accepted["digest"][:8])
def test_digests_of_an_earlier_release_stay_valid(accepted: dict[str, Any]) -> None:
    assert JobInput.model_validate(accepted["request"]).digest() == accepted["digest"]


@pytest.mark.parametrize("accepted", GOLDEN["digests"], ids=lambda accepted: accepted["digest"][:8])
@pytest.mark.parametrize("model", [DemandingInput, EarlyInput])
def test_a_field_that_comes_changes_no_digest(model: type[JobInput], accepted: dict[str, Any]) -> None:
    assert model.model_validate(accepted["request"]).digest() == accepted["digest"]


@pytest.mark.parametrize("accepted", GOLDEN["digests"], ids=lambda accepted: accepted["digest"][:8])
def test_sides_that_were_left_out_are_filled_in_before_the_digest(accepted: dict[str, Any]) -> None:
    assert JobRequest.model_validate(accepted["request"]).complete(1024, 1024).digest() == accepted["digest"]


@pytest.mark.parametrize(
    ("sides", "filled_in"),
    [
        ({}, (128, 96)),
        ({"width": 64}, (64, 96)),
        ({"height": 64, "width": None}, (128, 64)),
        ({"width": 80, "height": 64}, (80, 64)),
    ],
)
def test_each_side_that_is_left_out_is_the_served_model_s(sides: dict[str, Any], filled_in: tuple[int, int]) -> None:
    asked = JobRequest(prompt="a cat", seed=3, metadata={"a": "b"}, **sides).complete(128, 96)
    assert asked == JobInput(prompt="a cat", seed=3, metadata={"a": "b"}, width=filled_in[0], height=filled_in[1])


def test_null_is_as_good_as_nothing() -> None:
    nulls = dict.fromkeys(JobRequest.model_fields.keys() - {"prompt"})
    assert JobRequest(prompt="a cat", **nulls) == JobRequest(prompt="a cat")
    with pytest.raises(ValidationError, match="prompt\n  Field required"):
        JobRequest.model_validate({"prompt": None})


@pytest.mark.parametrize("seed", [-1, 2**53, 2**53 - 7, 1.5, "7", True])
def test_a_seed_that_is_none_is_told_how_to_have_a_random_one(seed: Any) -> None:
    told = rf"from 0 to {MAX_SEED} \({2**53 - 10} for 10 images\): for a random one leave it out"
    with pytest.raises(ValidationError, match=told):
        JobRequest(prompt="a cat", seed=seed)


@pytest.mark.parametrize("side", [100_000, 10**400, 2064, 72, 48, 0, -64, 64.5, "64", True])
def test_a_side_out_of_bounds_is_not_told_that_every_model_draws_up_to_the_bounds(side: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        JobRequest(prompt="a cat", width=side)
    [error] = refused.value.errors()
    assert error["msg"].startswith("must be a whole number, a multiple of 16 within the served model's limits")


@pytest.mark.parametrize("body", [[], ["prompt"], "a cat", 7, False, None])
def test_what_is_no_object_is_told_so(body: Any) -> None:
    with pytest.raises(ValidationError, match="must be a JSON object"):
        JobRequest.model_validate(body)


def test_of_thousands_of_mistakes_the_first_are_told() -> None:
    with pytest.raises(ValidationError) as refused:
        JobRequest.model_validate({"prompt": "", **dict.fromkeys(map(str, range(5000)))})
    assert [error["loc"] for error in refused.value.errors()][:2] == [("prompt",), ("0",)]
    assert refused.value.error_count() < 100


@pytest.mark.parametrize(("images", "largest"), [(1, MAX_SEED), (8, MAX_SEED), (9, 2**53 - 9), (10, 2**53 - 10)])
def test_the_last_image_s_seed_is_exact_too(images: int, largest: int) -> None:
    assert JobRequest(prompt="a cat", num_images=images, seed=largest).seed == largest
    with pytest.raises(ValidationError, match="seed\n  "):
        JobRequest(prompt="a cat", num_images=images, seed=largest + 1)


def test_workers_of_earlier_releases_claim_no_job_of_more_than_eight_images() -> None:
    needs = [JobInput(prompt="a cat", num_images=images).needs for images in (1, 8, 9, 10)]
    assert needs == [set(), set(), {"ten_images"}, {"ten_images"}]
    assert "ten_images" in ABILITIES


def test_requests_that_differ_in_a_later_field_alone_have_other_digests() -> None:
    early = {EarlyInput(**ASKED, early=value).digest() for value in ("none", "some", "more")}
    later = {demanding(**fields).digest() for fields in ({}, {"style": "ink"}, {"style": "oil"}, {"blur": 1})}
    assert (len(early), len(later)) == (3, 4)


def test_guidance_costs_a_second_evaluation_of_each_step() -> None:
    plain, guided = JobInput(**ASKED), JobInput(**ASKED, guidance_scale=0.5)
    assert plain.work == plain.cost == guided.work == 64 * 128 * 4 * 2
    assert guided.cost == 2 * plain.cost


def test_a_later_field_costs_what_it_says() -> None:
    plain = DearInput(**ASKED)
    assert plain.cost == plain.work
    assert DearInput(**ASKED, sharpness=1).cost == 1.5 * plain.work
    assert DearInput(**ASKED, sharpness=1, guidance_scale=1.0).cost == 3 * plain.work


def test_a_later_field_needs_what_it_says_unless_it_is_left_alone() -> None:
    assert demanding().needs == set()
    assert demanding("styles").needs == {"styles"}
    assert demanding("styles", "blurring").needs == {"styles", "blurring"}


def test_a_picture_is_decided_by_what_is_drawn_and_by_nothing_else() -> None:
    asked = JobInput(**ASKED, negative_prompt="text", guidance_scale=1.0, seed=3, priority="low", metadata={"a": "b"})
    assert {name: value for name, value in asked.picture().items() if name in FIRST_FIELDS} == {
        "prompt": "a cat",
        "negative_prompt": "text",
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "width": 64,
        "height": 128,
    }
    assert demanding("styles").picture().items() > {"style": "ink", "blur": 0}.items()
