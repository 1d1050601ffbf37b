"""The job: what a client may ask for (`JobInput`), its states, and what is known of it (`Job`).

Redis keeps a job as a hash of strings (written by the Lua scripts); `Job.from_record` reads one.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

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

SCHEMA_VERSION = 2  # of the record in Redis; a worker leaves records of a newer schema alone
MAX_IMAGES = 8  # of one job
MAX_SEED = 2**53 - MAX_IMAGES  # exact in JSON and JavaScript, also with the index of an image added
METADATA_BYTES = 4096
TINY = "tiny"  # the bundled model's name
TINY_SIZES = ((128, 128), (96, 128), (128, 96))  # width, height; what it draws at others, training/README.md says


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"  # accepted, waiting for a worker
    RUNNING = "running"  # claimed by a worker that renews its lease
    SUCCEEDED = "succeeded"  # images are in S3
    FAILED = "failed"  # `error` says why
    CANCELED = "canceled"  # by its client
    EXPIRED = "expired"  # queued for too long

    @property
    def active(self) -> bool:
        """Whether the job can still change its state."""
        return self in (JobStatus.QUEUED, JobStatus.RUNNING)


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
    # Read by the parser of the client that will call it. Where its host points to, api/addresses.py looks at.
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


class ImageRecord(BaseModel):
    """One finished image; `key` is its object in S3."""

    index: int
    seed: int
    width: int
    height: int
    bytes: int
    sha256: str
    key: str


# What `JobError.code` may be: docs/reliability.md explains each.
ERROR_CODES = (
    "worker_lost",
    "step_timeout",
    "device_error",
    "out_of_memory",
    "storage_unavailable",
    "deadline_exceeded",
    "invalid_input",
    "internal_error",
)


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["worker_lost", "out_of_memory", "storage_unavailable"])
    message: str
    retryable: bool = Field(description="Whether the same job may succeed when sent again.")


def _from_microseconds(value: Any) -> Any:
    return datetime.fromtimestamp(int(value) / 1e6, UTC) if isinstance(value, str) else value


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


Timestamp = Annotated[datetime, BeforeValidator(_from_microseconds)]


class Attempt(BaseModel):
    """A job at one of its attempts, as far as logs and traces tell of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    attempt: int = 0
    traceparent: str | None = None  # W3C Trace Context; jobs accepted by older versions have none
    worker: str | None = None
    started_at: Timestamp | None = None

    @classmethod
    def from_row(cls, row: Sequence[str | None]) -> "Attempt":
        """Read what `attempt_of` of the Lua scripts returns."""
        names = ("id", "owner", "attempt", "traceparent", "worker", "started_at")
        return cls.model_validate(dict(zip(names, row, strict=True)))


class Job(Attempt):
    """A job as the record in Redis has it."""

    status: JobStatus
    version: int
    created_at: Timestamp
    deadline: Timestamp
    queued_at: Timestamp | None = None  # the last time; jobs queued by older versions have none
    finished_at: Timestamp | None = None
    losses: int = 0
    step: int = 0
    input: JobInput
    images: Annotated[list[ImageRecord], BeforeValidator(_from_json)] = []
    stages: Annotated[dict[str, float], BeforeValidator(_from_json)] = {}
    peak_vram_bytes: int = 0
    warnings: Annotated[list[str], BeforeValidator(_from_json)] = []
    error: Annotated[JobError | None, BeforeValidator(_from_json)] = None

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Read the hash that the Lua scripts keep: times are microseconds, lists and objects JSON.

        Fields that a newer version of the service wrote are passed over.
        """
        job_input = JobInput.model_validate_json(record["input"], extra="ignore")
        return cls.model_validate({**record, "input": job_input})

    @property
    def timings(self) -> dict[str, float]:
        """Seconds: `queue` (accepted to started), the worker's stages, `total` (accepted to finished)."""
        timings: dict[str, float] = {}
        if self.started_at:
            timings["queue"] = (self.started_at - self.created_at).total_seconds()
        timings |= self.stages
        if self.finished_at:
            timings["total"] = (self.finished_at - self.created_at).total_seconds()
        return timings


class SizeLimits(BaseModel):
    """Smallest and largest side of an image, and that of the square drawn when a client names no size; in pixels."""

    min_size: int
    max_size: int
    default_size: int = 1024  # cards of workers from before it was told have none

    def refusals(self, job_input: JobInput) -> dict[str, str]:
        """Return what is wrong with `width` and `height`, each where it is."""
        told = f"the served model draws {self.min_size} to {self.max_size} pixels"
        sides = {"width": job_input.width, "height": job_input.height}
        return {side: told for side, pixels in sides.items() if not self.min_size <= pixels <= self.max_size}


class ModelCard(SizeLimits):
    """What a worker serves; published in Redis when it is ready."""

    name: str
    precision: str
    quantization: str | None = None  # "fp8"; cards of workers from before it was told have none
    load_seconds: float


def size_limits(model: str) -> SizeLimits:
    """Return the image sizes that a model is made for."""
    if model == TINY:
        return SizeLimits(min_size=64, max_size=1024, default_size=128)
    return SizeLimits(min_size=256, max_size=2048)
