"""What the service takes and says, as types: jobs, their images, and refusals."""

from typing import Literal, NotRequired, TypedDict

Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
ACTIVE: tuple[Status, ...] = ("queued", "running")


class StepCache(TypedDict, total=False):
    """When a step skips layers, by DBCache's and TaylorSeer's parameters; the service has a default for each."""

    first: int
    last: int
    warmup: int
    threshold: float
    max_skips: int
    mask: str | None
    taylor_order: int
    protect_last: bool


class JobRequest(TypedDict):
    """What to draw; the service has a default for each field but the prompt. That of the size suits its model."""

    prompt: str
    negative_prompt: NotRequired[str | None]
    width: NotRequired[int]
    height: NotRequired[int]
    num_inference_steps: NotRequired[int]
    guidance_scale: NotRequired[float]
    step_cache: NotRequired[Literal["off", "quality", "fast"] | StepCache | None]
    seed: NotRequired[int | None]
    num_images: NotRequired[int]
    priority: NotRequired[Literal["high", "normal", "low"]]
    timeout_seconds: NotRequired[int | None]
    webhook_url: NotRequired[str | None]
    metadata: NotRequired[dict[str, str]]


class QueuePlace(TypedDict):
    """Where a queued job stands; position 1 is next."""

    position: int
    eta_seconds: float | None


class Progress(TypedDict):
    """Denoising steps done."""

    step: int
    total: int


class Image(TypedDict):
    """A finished image; `url` is presigned and ends after a while."""

    index: int
    seed: int
    width: int
    height: int
    bytes: int
    sha256: str
    steps_skipped: NotRequired[float]  # services of earlier releases tell of none
    url: str


class JobError(TypedDict):
    """Why a job failed."""

    code: str
    message: str
    retryable: bool


class Job(TypedDict):
    """A job as the service tells it."""

    id: str
    status: Status
    created_at: str
    started_at: str | None
    finished_at: str | None
    attempt: int
    cancel_requested: bool
    queue: QueuePlace | None
    progress: Progress
    input: JobRequest
    images: list[Image]
    timings: dict[str, float]
    peak_vram_bytes: int
    warnings: list[str]
    error: JobError | None
    worker: str | None
    urls: dict[str, str]


class JobPage(TypedDict):
    """A page of jobs, newest first; `next_cursor` is None on the last."""

    jobs: list[Job]
    next_cursor: str | None


class ServiceError(Exception):
    """The service refused or could not be reached; as text one line.

    Attributes:
        status: the HTTP status; None when no answer came.
        code: the problem's code for programs, such as `queue_full`; `unreachable` when no answer came.
        detail: what went wrong and what to do, for people.
        request_id: the request's name in the service's logs, if it told one.
    """

    def __init__(self, status: int | None, code: str, detail: str, request_id: str | None = None) -> None:
        super().__init__(f"{detail} (request {request_id})" if request_id else detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
