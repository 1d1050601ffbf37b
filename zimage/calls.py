"""The service's endpoints as descriptions, and how failures are told: what both clients have in common."""

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

import httpx

from network import certificates
from network.proxies import ProxyError, through
from zimage.contract import Image, Job, JobPage, JobRequest, ServiceError
from zimage.transports import AUTHORITIES, AuthoritiesError

ANSWER_SECONDS = 30.0
CONNECT_SECONDS = 5.0
LONGEST_WAIT = 60  # seconds that the service holds an answer at most
LAST_PORT = 65535

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request and how its answer is read.

    Attributes:
        method: of HTTP.
        url: below the service's `/v1`, or a whole one.
        read: returns what the answer says, or raises `ServiceError` when it is a refusal.
        options: headers, params, json and timeout, as httpx takes them.
    """

    method: str
    url: str
    read: Callable[[httpx.Response], T]
    options: Mapping[str, Any] = field(default_factory=dict)


def submit(request: JobRequest, idempotency_key: str | None) -> Call[Job]:
    """Post a job; under a new key without one."""
    headers = {"Idempotency-Key": header_value("idempotency_key", idempotency_key or str(uuid.uuid4()))}
    return Call("POST", "/jobs", _json, {"json": request, "headers": headers})


def get(job_id: str, wait: float) -> Call[Job]:
    """Read a job, after it ended or `wait` seconds passed."""
    wait = min(wait, LONGEST_WAIT)
    headers = {"Prefer": f"wait={wait:.0f}"} if wait >= 1 else {}
    return Call("GET", _job(job_id), _json, {"headers": headers, "timeout": timeout(wait)})


def events(job_id: str) -> str:
    """Return where a job's events are."""
    return f"{_job(job_id)}/events"


def event(line: str) -> Job | None:
    """Return the job that a line of server-sent events tells of; None for a line that tells of none."""
    name, _, data = line.partition(": ")
    return cast("Job", json.loads(data)) if name == "data" else None


def cancel(job_id: str) -> Call[Job]:
    """Cancel a job."""
    return Call("POST", f"{_job(job_id)}/cancel", _json, {"headers": {"Idempotency-Key": str(uuid.uuid4())}})


def delete(job_id: str) -> Call[None]:
    """Delete an ended job and its images."""
    return Call("DELETE", _job(job_id), _nothing)


def page(status: str | None, limit: int, cursor: str | None) -> Call[JobPage]:
    """Read one page of jobs."""
    params = {"status": status, "limit": limit, "cursor": cursor}
    return Call("GET", "/jobs", _json, {"params": {name: value for name, value in params.items() if value is not None}})


def download(image: Image) -> Call[bytes]:
    """Fetch an image's PNG from the storage, and check it."""

    def checked(response: httpx.Response) -> bytes:
        if not response.is_success:
            where = f"image {image['index']} at {response.url.copy_with(query=None)}"
            answer = f"the storage answered {response.status_code}{through(str(response.url))}"
            detail = f"{where}: {answer}; its URL may have ended: ask for the job again"
            raise ServiceError(response.status_code, "download_failed", detail)
        if hashlib.sha256(response.content).hexdigest() != image["sha256"]:
            detail = f"image {image['index']}: {len(response.content)} bytes came whose SHA-256 is not the reported one"
            raise ServiceError(response.status_code, "checksum_mismatch", detail)
        return response.content

    return Call("GET", image["url"], checked)


def base_url(url: str) -> httpx.URL:
    """Return the address of a service's `/v1`.

    Args:
        url: the service's address; `/v1` may be there already, in any case, as in OpenAI's `base_url`.

    Raises:
        ServiceError: `url` can't be one.
    """
    try:
        address = httpx.URL(re.sub(r"(/+v1)*/*$", "/v1", url, count=1, flags=re.IGNORECASE))
    except httpx.InvalidURL:  # whose text may repeat a part of a password
        address = None
    if address is None or address.query or address.fragment or address.port == 0 or (address.port or 0) > LAST_PORT:
        detail = "the service's address can't be read: name it as http://HOST:PORT with --url or ZIMAGE_URL"
        raise ServiceError(None, "invalid_url", detail)
    return address


def header_value(name: str, value: str) -> str:
    """Return what a header can take.

    Raises:
        ServiceError: `value` can't be sent; it is not repeated, since it may be secret.
    """
    if not (value.isascii() and value.isprintable()):
        detail = f"the {name} can't be sent: only visible ASCII characters and spaces can be in it"
        raise ServiceError(None, "invalid_header", detail)
    return value


def timeout(wait: float = 0) -> httpx.Timeout:
    """Return the timeout of a request that the service may hold for `wait` seconds."""
    return httpx.Timeout(ANSWER_SECONDS + wait, connect=CONNECT_SECONDS)


@contextmanager
def unreachable_told(request: httpx.Request) -> Iterator[None]:
    """Turn a request's failure to be answered into a `ServiceError`."""
    try:
        yield
    except httpx.UnsupportedProtocol:
        detail = "not an http:// or https:// address: name the service as http://HOST:PORT with --url or ZIMAGE_URL"
        raise ServiceError(None, "unreachable", detail) from None
    except ProxyError as error:
        raise ServiceError(None, "invalid_proxy", str(error)) from None
    except AuthoritiesError as error:
        raise ServiceError(None, "invalid_authorities", str(error)) from None
    except httpx.LocalProtocolError:  # its text repeats headers, and with them the key
        raise ServiceError(None, "invalid_request", "the request can't be written as HTTP") from None
    except UnicodeError:  # of the name's look-up
        raise ServiceError(None, "invalid_url", f"{request.url.host} can be no host's name: see its dots") from None
    except httpx.TransportError as error:
        url = request.url
        told = f"{url.scheme}://{url.netloc.decode()} can't be reached"
        if unknown := certificates.advice(error, AUTHORITIES):
            told, advice = f"{told}{through(str(url))}", unknown
        elif way := through(str(url)):
            told, advice = f"{told}{way}", f"set another one, or name {url.host} in NO_PROXY"
        else:
            advice = "start a service with `zimage up`, or name one with --url or ZIMAGE_URL"
        detail = f"{told} ({str(error) or type(error).__name__}): {advice}"
        raise ServiceError(None, "unreachable", detail) from error


def _job(job_id: str) -> str:
    if not job_id.strip("."):  # would name another path: "." and ".." can't be quoted
        raise ServiceError(None, "invalid_id", f"{job_id!r} is no job's id")
    return f"/jobs/{quote(job_id, safe='')}"


def _json(response: httpx.Response) -> Any:
    _nothing(response)
    try:
        return response.json()
    except ValueError:
        detail = f"{_place(response)} answered {response.status_code}, but no JSON: is it the address of a service?"
        raise ServiceError(response.status_code, "unexpected_answer", detail) from None


def _place(response: httpx.Response) -> str:
    """Where an answer came from, without credentials."""
    return f"{response.url.copy_with(userinfo=b'')}{through(str(response.url))}"


def _nothing(response: httpx.Response) -> None:
    if not response.is_success:
        raise _problem(response)


def _problem(response: httpx.Response) -> ServiceError:
    """Read problem details (RFC 9457), or an error in OpenAI's shape, as a wrong address may answer.

    Other bodies come from whatever stands before the service.
    """
    request_id = response.headers.get("X-Request-ID")
    try:
        problem = response.json()
    except ValueError:
        problem = None
    match problem:
        case {"code": str(code), "detail": str(detail)}:
            request_id = problem.get("request_id", request_id)
        case {"error": {"code": str(code), "message": str(detail)}}:
            pass
        case _:
            detail = f"{_place(response)} answered {response.status_code} {response.reason_phrase}"
            return ServiceError(response.status_code, "unexpected_answer", detail, request_id)
    if code == "invalid_api_key":  # of headers only programs know
        detail = "the service wants a valid API key: name one with --key or ZIMAGE_API_KEY"
    return ServiceError(response.status_code, code, detail, request_id)
