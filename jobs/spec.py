"""A job's request: the fields that a client may send, their limits, and what follows from them."""

from typing import Annotated, Any, Literal

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)

MAX_IMAGES = 8  # of one job
MAX_SEED = 2**53 - MAX_IMAGES  # exact in JSON and JavaScript, also with the index of an image added
METADATA_BYTES = 4096


Priority = Literal["high", "normal", "low"]


def _at_most_4_kib(metadata: dict[str, str]) -> dict[str, str]:
    try:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    except UnicodeEncodeError:
        raise ValueError("keys and values must be valid Unicode: there is half of a surrogate pair") from None
    if size > METADATA_BYTES:
        raise ValueError(f"keys and values must be at most {METADATA_BYTES} bytes together, got {size}")
    return metadata


def _webhook_url(value: str) -> str:
    # Read by the parser of the client that will call it. Where its host points to, api/webhooks/addresses.py looks at.
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"must be a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be an http:// or https:// URL with a host")
    if url.userinfo:
        raise ValueError("must have no user name and password in it: verify the signature of what comes instead")
    if url.port is not None and url.port not in (80, 443) and not 1024 <= url.port <= 65535:
        raise ValueError("must have port 80, 443 or one from 1024 on: the others belong to other protocols")
    return value


def _integral_float_is_int(value: Any) -> Any:
    # JSON has one kind of number: JavaScript and jq may write 8 as 8.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Number = BeforeValidator(_integral_float_is_int)
Int = Annotated[int, _Number]
# Bounds first, or the JSON schema of `… | None` has none.
NumImages = Annotated[int, Field(ge=1, le=MAX_IMAGES), _Number]
WebhookUrl = Annotated[
    Annotated[
        str,
        StringConstraints(max_length=2048),
        AfterValidator(_webhook_url),
        Field(json_schema_extra={"format": "uri"}),
    ]
    | None,
    Field(
        description="Told when the job has ended (see the webhook `job.ended`); http or https, "
        "port 80, 443 or one from 1024 on, public addresses only.",
        examples=[None],
    ),
]
Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    Field(json_schema_extra={"pattern": r"\S"}),
]


class JobOptions(BaseModel):
    """What every request for images may say, whatever API it comes by."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Prompt = Field(description="What to draw; the model reads the first 512 tokens.", examples=["a red circle"])
    negative_prompt: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        None, description="What to avoid; only with guidance_scale > 0."
    )
    num_inference_steps: Int = Field(8, ge=1, le=50)
    guidance_scale: float = Field(0.0, ge=0, le=20, description="Classifier-free guidance; Turbo takes 0.")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), _Number] | None = Field(
        None, description="Image i is drawn from seed + i; null: drawn for you."
    )
    priority: Priority = "normal"
    timeout_seconds: Annotated[int, Field(ge=1, le=3600), _Number] | None = Field(
        None, description="Seconds after which the job is not worth finishing."
    )
    metadata: Annotated[dict[str, str], AfterValidator(_at_most_4_kib)] = Field(
        default_factory=dict, max_length=16, description="At most 16 pairs of strings, 4 KiB together."
    )


INPUT_EXAMPLE: dict[str, JsonValue] = {
    "prompt": "a red circle on white",
    "negative_prompt": None,
    "width": 1024,
    "height": 1024,
    "num_inference_steps": 8,
    "guidance_scale": 0.0,
    "seed": None,
    "num_images": 1,
    "priority": "normal",
    "timeout_seconds": None,
    "webhook_url": None,
    "metadata": {"project": "shapes"},
}


class JobInput(JobOptions):
    """A request for images, checked; `POST /v1/jobs` takes it and the worker draws it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a red circle on white"}, INPUT_EXAMPLE]})

    width: Int = Field(1024, ge=64, le=2048, multiple_of=16, description="Pixels; the served model may allow less.")
    height: Int = Field(1024, ge=64, le=2048, multiple_of=16, description="Pixels; the served model may allow less.")
    num_images: NumImages = 1
    webhook_url: WebhookUrl = None

    @property
    def work(self) -> int:
        """Pixels × steps × images: what the queue measures the GPU's time in."""
        return self.width * self.height * self.num_inference_steps * self.num_images

    @property
    def schema_version(self) -> int:
        """Oldest schema whose scripts do all that the job asks for: those of 1 would lose the event for its webhook."""
        return 1 if self.webhook_url is None else 2
