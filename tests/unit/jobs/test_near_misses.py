"""Who uses another service's name for a field is told ours."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.openai.request import ImagesRequest
from jobs.spec import JobRequest

ON_BOTH = {
    **dict.fromkeys(
        ["steps", "step", "STEPS", "setps", "num_step", "nSteps", "sampler_steps", "denoising-steps", "iterations"],
        "num_inference_steps",
    ),
    **dict.fromkeys(
        ["cfgscale", "CFG-Scale", "scale", "guidence", "guidance_scales", "GuidanceScale"], "guidance_scale"
    ),
    "neg": "negative_prompt",
    "Prompt": "prompt",
    "rand_seed": "seed",
    "timeout_ms": "timeout_seconds",
    "timeOut": "timeout_seconds",
    "webhook-URL": "webhook_url",
    "sampling_steps": "num_inference_steps",
    "numInferenceSteps": "num_inference_steps",
    "num_inference_step": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "cfg": "guidance_scale",
    "guidance": "guidance_scale",
    "guidanceScale": "guidance_scale",
    **dict.fromkeys(["stepCache", "cache", "cache_dit", "dbcache"], "step_cache"),
    "negative": "negative_prompt",
    "negative-prompt": "negative_prompt",
    "negativ_prompt": "negative_prompt",
    "random_seed": "seed",
    "timeout": "timeout_seconds",
    "callback_url": "webhook_url",
    "metadatas": "metadata",
}
IMAGES = ["num_outputs", "batch_size", "quantity", "sample_count", "batchCount", "number", "num", "num_image"]
IMAGES += ["images_per_prompt", "numberOfImages", "n_images", "num-samples"]
ON_OURS = {
    **dict.fromkeys(["n", "N", *IMAGES], "num_images"),
    "style": "prompt",
    "safety_identifier": "metadata",
    "size": "width and height",
    "resolution": "width and height",
    "w": "width",
    "hieght": "height",
    "user": "metadata",
}
ON_OPENAIS = {
    **dict.fromkeys(["numImages", "NUM_IMAGES", "num_images_per_prompt", *IMAGES], "n"),
    **dict.fromkeys(["Width", "image_height", "image_size", "SIZE"], "size"),
    "model_name": "model",
    "sytle": "style",
    "respons_format": "response_format",
    "responseFormat": "response_format",
}


@pytest.mark.parametrize(
    ("request_type", "name", "right"),
    [
        *((JobRequest, *pair) for pair in (ON_BOTH | ON_OURS).items()),
        *((ImagesRequest, *pair) for pair in (ON_BOTH | ON_OPENAIS).items()),
    ],
)
def test_a_near_miss_is_told_the_right_name(
    request_type: type[JobRequest | ImagesRequest], name: str, right: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        request_type.model_validate({"prompt": "a cat", name: 1, "seed": -1})
    told = {error["loc"]: error["msg"] for error in refused.value.errors()}
    assert told[(name,)] == f"no such field: use {right}"
    assert told["seed",].endswith("for a random one leave it out")  # nor is another mistake left out


NEAR_TO_NOTHING = [
    "colour",
    "lora",
    "",
    "x" * 1000,
    "猫",
    "sampler",
    "upscale",
    "image_prompt",
    "strength",
]


def told(request_type: type[JobRequest | ImagesRequest], name: str, value: Any = None) -> str:
    with pytest.raises(ValidationError) as refused:
        request_type.model_validate({"prompt": "a cat", name: value})
    [error] = refused.value.errors()
    assert error["loc"] == (name,)
    return error["msg"]


@pytest.mark.parametrize("request_type", [JobRequest, ImagesRequest])
@pytest.mark.parametrize("name", NEAR_TO_NOTHING)
def test_what_is_near_to_nothing_is_told_what_there_is(
    request_type: type[JobRequest | ImagesRequest], name: str
) -> None:
    assert told(request_type, name).startswith("no such field: there are prompt, negative_prompt, ")


@pytest.mark.parametrize("request_type", [JobRequest, ImagesRequest])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extra_body", {"steps": 4}),
        ("extraBody", "{}"),
        ("extra", {}),
        ("parameters", {"seed": 7}),  # as the hub's inference takes them
        ("input", {"prompt": "a cat", "num_outputs": 2}),  # as Replicate does
    ],
)
def test_fields_within_a_field_are_told_where_they_belong(
    request_type: type[JobRequest | ImagesRequest], name: str, value: Any
) -> None:
    assert told(request_type, name, value) == "no such field: put its fields at the top level"


def test_each_field_of_openai_s_route_is_known_to_ours() -> None:
    advice = {name: told(JobRequest, name) for name in ImagesRequest.model_fields.keys() - JobRequest.model_fields}
    for name in ("model", "response_format", "quality", "stream"):
        assert advice[name] == f"no such field: leave it out, only /v1/images/generations takes {name}"
    assert not [name for name, advised in advice.items() if "there are" in advised]
