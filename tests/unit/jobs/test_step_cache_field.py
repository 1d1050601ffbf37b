"""`step_cache` as a job says it: what is taken, what is refused and how, what it costs, who may draw it."""

from dataclasses import asdict
from typing import Any

import pytest
from pydantic import ValidationError

from api.openai.request import ImagesRequest
from jobs.spec import ABILITIES, JobInput, JobRequest
from jobs.step_cache import LAYERS, SKIPS_IN_A_ROW, if_it_fits
from pipeline.skipping import PRESETS, StepCache

BOTH = pytest.mark.parametrize("request_type", [JobRequest, ImagesRequest])
DEFAULTS = {
    "first": 1,
    "last": 0,
    "warmup": 4,
    "threshold": 0.24,
    "max_skips": 3,
    "mask": None,
    "taylor_order": 0,
    "protect_last": False,
}


def job(step_cache: Any = "off", **fields: Any) -> JobInput:
    return JobInput.model_validate({"prompt": "a cat", "step_cache": step_cache, **fields})


@BOTH
@pytest.mark.parametrize("preset", ["off", "quality", "fast"])
def test_a_preset_is_taken_on_both_apis(request_type: type[JobRequest | ImagesRequest], preset: str) -> None:
    assert request_type(prompt="a cat", step_cache=preset).step_cache == preset


def test_keys_that_are_left_out_are_upstream_s_defaults() -> None:
    assert job({}).picture()["step_cache"] == DEFAULTS == asdict(StepCache())
    assert job({"first": 2.0, "mask": None}).picture()["step_cache"] == {**DEFAULTS, "first": 2}


@pytest.mark.parametrize(
    "parameters",
    [
        {"first": LAYERS - 1},
        {"first": 1, "last": LAYERS - 2},
        {"warmup": 0, "threshold": 0, "max_skips": 0},
        {"threshold": 1000, "taylor_order": 2, "protect_last": True},
        {"mask": "11101001"},
    ],
)
def test_the_pipeline_takes_what_the_contract_takes(parameters: dict[str, Any]) -> None:
    drawn = StepCache.of(job(parameters).picture()["step_cache"])
    assert drawn == StepCache(**parameters)
    assert drawn
    drawn.check(8, LAYERS)


def test_the_presets_are_the_pipeline_s() -> None:
    assert {"off": 0, **{name: preset.max_skips for name, preset in PRESETS.items()}} == SKIPS_IN_A_ROW
    assert all(preset.warmup == 1 and preset.protect_last for preset in PRESETS.values())


@BOTH
@pytest.mark.parametrize(
    ("wrong", "place", "told"),
    [
        ("slow", (), "must be off, quality or fast, or an object"),
        (3, (), "must be off, quality or fast, or an object"),
        (True, (), "must be off, quality or fast, or an object"),
        ([], (), "must be off, quality or fast, or an object"),
        ({"first": 0}, ("first",), "greater than or equal to 1"),
        ({"first": LAYERS}, ("first",), "less than or equal to 29"),
        ({"last": -1}, ("last",), "greater than or equal to 0"),
        ({"last": True}, ("last",), "valid integer"),
        ({"warmup": 1.5}, ("warmup",), "valid integer"),
        ({"threshold": -0.1}, ("threshold",), "greater than or equal to 0"),
        ({"threshold": "0.2"}, ("threshold",), "valid number"),
        ({"max_skips": -1}, ("max_skips",), "greater than or equal to 0"),
        ({"taylor_order": 3}, ("taylor_order",), "less than or equal to 2"),
        ({"protect_last": 1}, ("protect_last",), "valid boolean"),
        *(
            ({"mask": mask}, ("mask",), "must be a text with a digit for each step, 1 where it computes and 0 where it")
            for mask in ("01101001", "1110x001", "", 11101001, [1, 1, 1, 0, 1, 0, 0, 1], "1" * 51)
        ),
        ({"mask": "111"}, ("mask",), "must have a digit for each of the 8 steps, has 3"),
        ({"treshold": 0.2}, ("treshold",), "no such field: use threshold"),
        ({"Fn_compute_blocks": 1}, ("Fn_compute_blocks",), "no such field: use first"),
        ({"residual_diff_threshold": 0.2}, ("residual_diff_threshold",), "no such field: use threshold"),
        ({"max_continuous_cached_steps": 1}, ("max_continuous_cached_steps",), "no such field: use max_skips"),
        ({"MC": 3}, ("MC",), "no such field: use max_skips"),
        ({"ts_order": 1}, ("ts_order",), "no such field: use taylor_order"),
        ({"max_cached_steps": 4}, ("max_cached_steps",), "no such field: there are first, last, warmup, threshold, "),
        ({"first": 29, "last": 28}, (), "first and last are 29 and 28; they must be fewer than 30 together"),
        ({"colour": 1}, ("colour",), "no such field: there are first, last, warmup, threshold, max_skips, mask, "),
    ],
)
def test_what_is_wrong_is_told_at_its_place(
    request_type: type[JobRequest | ImagesRequest], wrong: Any, place: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        request_type.model_validate({"prompt": "a cat", "step_cache": wrong})
    [error] = refused.value.errors()
    assert error["loc"] == ("step_cache", *place)
    assert told in error["msg"]


def test_a_mask_is_as_long_as_the_job_has_steps() -> None:
    assert JobRequest(prompt="a cat", num_inference_steps=3, step_cache={"mask": "101"})


def test_a_default_that_is_made_for_other_jobs_is_off_for_this_one() -> None:
    mask, many = job({"mask": "11101001"}).step_cache, job({"first": 5, "last": 2}).step_cache
    assert (if_it_fits(mask, 8, LAYERS), if_it_fits(mask, 4, LAYERS)) == (mask, "off")
    assert (if_it_fits(many, 8, LAYERS), if_it_fits(many, 8, 7)) == (many, "off")
    assert if_it_fits("fast", 4, 7) == "fast"


def test_only_workers_that_can_skip_are_asked_to() -> None:
    assert (job().needs, job("fast").needs, job({}).needs) == (set(), {"step_cache"}, {"step_cache"})
    assert "step_cache" in ABILITIES


def test_a_job_costs_the_layers_that_are_expected_to_be_computed() -> None:
    whole = job().cost
    assert job("quality").cost / whole == pytest.approx(1 - 3 / 8 * 29 / 30)
    assert job("fast").cost / whole == pytest.approx(1 - 4 / 8 * 29 / 30)
    assert job({"threshold": 0.9}).cost == whole  # how many it skips, only the picture tells
    assert job({"mask": "11101010", "first": 3}).cost / whole == pytest.approx(1 - 3 / 8 * 27 / 30)
    assert job({"mask": "11111110", "protect_last": True}).cost == whole
    assert job("fast", guidance_scale=1.0).cost / whole == pytest.approx(2 * (1 - 4 / 8 * 29 / 30))


@pytest.mark.parametrize(
    ("steps", "quality", "fast"), [(1, 0, 0), (2, 0, 0), (3, 1, 1), (4, 1, 2), (5, 2, 2), (9, 4, 5), (50, 24, 32)]
)
def test_a_preset_skips_none_of_a_job_s_first_and_last_step(steps: int, quality: int, fast: int) -> None:
    whole = job(num_inference_steps=steps).cost
    for preset, skipped in (("quality", quality), ("fast", fast)):
        share = job(preset, num_inference_steps=steps).cost / whole
        assert share == pytest.approx(1 - skipped / steps * 29 / 30)


def test_what_a_job_took_is_measured_by_what_it_skipped() -> None:
    for cache in ("off", "quality", {"threshold": 0.9}):
        fields: dict[str, Any] = {"num_images": 2, "guidance_scale": 1.0}
        whole = job(**fields).cost
        assert job(cache, **fields).cost_drawn(0) == pytest.approx(whole, abs=1)
        assert job(cache, **fields).cost_drawn(4) / whole == pytest.approx(1 - 4 / 16 * 29 / 30)


def test_a_digest_counts_it_where_it_is_not_off() -> None:
    plain = JobInput(prompt="a cat").digest()
    assert job().digest() == plain
    assert len({plain, job("fast").digest(), job({}).digest(), job({"first": 2}).digest()}) == 4
    assert job({}).digest() == job(DEFAULTS).digest()


def test_a_zero_is_a_zero_whatever_its_sign() -> None:
    fields = [{"step_cache": {"threshold": zero}, "guidance_scale": zero} for zero in (0.0, -0.0, 0)]
    assert len({job(**each).digest() for each in fields}) == 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *(
            (f"SGLANG_CACHE_DIT_{name}", ours)
            for name, ours in [
                ("FN", "first"),
                ("BN", "last"),
                ("WARMUP", "warmup"),
                ("RDT", "threshold"),
                ("MC", "max_skips"),
                ("TAYLORSEER", "taylor_order"),
                ("TS_ORDER", "taylor_order"),
            ]
        ),
        ("enable_taylorseer", "taylor_order"),
        ("steps_computation_mask", "mask"),
        ("steps_computation_policy", "mask"),
    ],
)
def test_upstream_s_names_are_told_ours(theirs: str, ours: str) -> None:
    for name in (theirs, theirs.swapcase()):
        with pytest.raises(ValidationError, match=rf"\n  no such field: use {ours} "):
            job({name: 1})


def test_parameters_of_a_later_release_are_passed_over_in_a_record() -> None:
    record = JobInput(prompt="a cat").model_dump_json().replace('"off"', '{"first": 2, "spectral": true}')
    assert JobInput.model_validate_json(record, extra="ignore").step_cache == job({"first": 2}).step_cache
