"""Who uses another service's name for a field is told ours."""

import pytest
from pydantic import ValidationError

from api.openai.request import ImagesRequest
from jobs.spec import JobRequest

ON_BOTH = {
    "steps": "num_inference_steps",
    "sampling_steps": "num_inference_steps",
    "numInferenceSteps": "num_inference_steps",
    "num_inference_step": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "cfg": "guidance_scale",
    "guidance": "guidance_scale",
    "guidanceScale": "guidance_scale",
    "negative": "negative_prompt",
    "negative-prompt": "negative_prompt",
    "negativ_prompt": "negative_prompt",
    "random_seed": "seed",
    "timeout": "timeout_seconds",
    "callback_url": "webhook_url",
    "metadatas": "metadata",
}
ON_OURS = {
    "n": "num_images",
    "num_outputs": "num_images",
    "batch_size": "num_images",
    "size": "width and height",
    "resolution": "width and height",
    "w": "width",
    "hieght": "height",
    "user": "metadata",
}
ON_OPENAIS = {
    "num_outputs": "n",
    "batch_size": "n",
    "num_images_per_prompt": "n",
    "image_size": "size",
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


@pytest.mark.parametrize("request_type", [JobRequest, ImagesRequest])
@pytest.mark.parametrize("name", ["colour", "lora", "", "x" * 1000, "猫"])
def test_what_is_near_to_nothing_is_told_what_there_is(
    request_type: type[JobRequest | ImagesRequest], name: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        request_type.model_validate({"prompt": "a cat", name: None})
    [error] = refused.value.errors()
    assert error["loc"] == (name,)
    assert error["msg"].startswith("no such field: ")
    assert "colour" not in error["msg"]
