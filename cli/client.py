"""A client of the service's HTTP API: `ZImageClient`, for scripts and for the `zimage` command.

It tries again by itself where that is safe: reads, and posts under the `Idempotency-Key` that it always sends.
"""

import hashlib
import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict, cast

import httpx

from cli.errors import UserError

ATTEMPTS = 5
FIRST_DELAY = 0.2
LONGEST_DELAY = 30.0
ANSWER_SECONDS = 30.0
CONNECT_SECONDS = 5.0
LONGEST_WAIT = 60  # seconds that the service holds an answer at most
BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)

Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
ACTIVE: tuple[Status, ...] = ("queued", "running")


class JobRequest(TypedDict):
    """What to draw; the service has a default for each field but the prompt."""

    prompt: str
    negative_prompt: NotRequired[str | None]
    width: NotRequired[int]
    height: NotRequired[int]
    num_inference_steps: NotRequired[int]
    guidance_scale: NotRequired[float]
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


class ServiceError(UserError):
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


class ZImageClient:
    """One service. Its methods raise `ServiceError` when the service refuses or can't be reached."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Connect lazily.

        Args:
            url: the service's address, without `/v1`.
            key: API key, if the service asks for one.
        """
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = _timeout()
        self._http = httpx.Client(base_url=f"{self.url}/v1", headers=headers, timeout=timeout)
        # Presigned URLs are on another host, which must not see the key.
        self._storage = httpx.Client(timeout=timeout, follow_redirects=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        self._storage.close()

    def submit(self, request: JobRequest, idempotency_key: str | None = None) -> Job:
        """Post a job.

        Args:
            request: what to draw.
            idempotency_key: the same key with the same request again gives the same job; None: a new key.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return cast("Job", self._call("POST", "/jobs", json=request, headers=headers).json())

    def get(self, job_id: str, wait: float = 0) -> Job:
        """Read a job, after it ended or `wait` seconds passed (60 at most)."""
        wait = min(wait, LONGEST_WAIT)
        headers = {"Prefer": f"wait={wait:.0f}"} if wait >= 1 else {}
        return cast("Job", self._call("GET", f"/jobs/{job_id}", headers=headers, timeout=_timeout(wait)).json())

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once while queued, before its next step while running."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return cast("Job", self._call("POST", f"/jobs/{job_id}/cancel", headers=headers).json())

    def delete(self, job_id: str) -> None:
        """Delete an ended job and its images."""
        self._call("DELETE", f"/jobs/{job_id}")

    def page(self, status: str | None = None, limit: int = 20, cursor: str | None = None) -> JobPage:
        """Read one page of jobs, 100 at most, newest first."""
        params = {"status": status, "limit": limit, "cursor": cursor}
        chosen = {name: value for name, value in params.items() if value is not None}
        return cast("JobPage", self._call("GET", "/jobs", params=chosen).json())

    def list(self, status: str | None = None, page_size: int = 100) -> Iterator[Job]:
        """Read all jobs, newest first, page by page as they are taken."""
        cursor = None
        while True:
            page = self.page(status, limit=page_size, cursor=cursor)
            yield from page["jobs"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def progress(self, job_id: str, interval: float = 0.25) -> Iterator[Job]:
        """Read a job again and again, until it ended; the last one given is the ended one."""
        while True:
            job = self.get(job_id)
            yield job
            if job["status"] not in ACTIVE:
                return
            time.sleep(interval)

    def download(self, image: Image) -> bytes:
        """Fetch an image's PNG, and check it.

        Raises:
            ServiceError: the storage refused (`code` is `download_failed`), or the bytes are not those that the
                service reported (`checksum_mismatch`).
        """
        response = self._repeat(self._storage, self._storage.build_request("GET", image["url"]))
        if not response.is_success:
            where = f"image {image['index']} at {response.url.copy_with(query=None)}"
            detail = (
                f"{where}: the storage answered {response.status_code}; its URL may have ended: ask for the job again"
            )
            raise ServiceError(response.status_code, "download_failed", detail)
        if hashlib.sha256(response.content).hexdigest() != image["sha256"]:
            detail = f"image {image['index']}: {len(response.content)} bytes came whose SHA-256 is not the reported one"
            raise ServiceError(response.status_code, "checksum_mismatch", detail)
        return response.content

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._repeat(self._http, self._http.build_request(method, path, **options))
        if not response.is_success:
            raise _problem(response)
        return response

    def _repeat(self, http: httpx.Client, request: httpx.Request) -> httpx.Response:
        """Send, and send again after lost connections and while the service is busy."""
        # A DELETE that got lost on the way back would be answered 404 or 410 the second time.
        repeatable: type[httpx.TransportError] = (
            httpx.ConnectError if request.method == "DELETE" else httpx.TransportError
        )
        for attempt in range(1, ATTEMPTS + 1):
            delay = FIRST_DELAY * 2 ** (attempt - 1)
            try:
                response = http.send(request)
            except httpx.UnsupportedProtocol:
                raise ServiceError(None, "unreachable", f"{request.url}: not an http:// or https:// address") from None
            except httpx.TransportError as error:
                if attempt == ATTEMPTS or not isinstance(error, repeatable):
                    host = f"{request.url.scheme}://{request.url.netloc.decode()}"
                    detail = (
                        f"{host} can't be reached ({str(error) or type(error).__name__}): "
                        "start a service with `zimage up`, or name one with --url or ZIMAGE_URL"
                    )
                    raise ServiceError(None, "unreachable", detail) from error
            else:
                if response.status_code not in BUSY or attempt == ATTEMPTS:
                    return response
                delay = max(delay, _retry_after(response.headers))
                if delay > LONGEST_DELAY:
                    return response
            time.sleep(delay)
        raise AssertionError("the last attempt returns or raises")


def _timeout(wait: float = 0) -> httpx.Timeout:
    return httpx.Timeout(ANSWER_SECONDS + wait, connect=CONNECT_SECONDS)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _problem(response: httpx.Response) -> ServiceError:
    """Read problem details (RFC 9457); other bodies come from whatever stands before the service."""
    request_id = response.headers.get("X-Request-ID")
    try:
        problem = response.json()
        code, detail = problem["code"], problem["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"{response.url} answered {response.status_code} {response.reason_phrase}"
        return ServiceError(response.status_code, "unexpected_answer", detail, request_id)
    return ServiceError(response.status_code, code, detail, problem.get("request_id", request_id))
