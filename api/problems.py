"""Errors as RFC 9457 problem details: what went wrong, where, and what to do; in OpenAI's shape on OpenAI's routes."""

import logging
import math
from collections.abc import Mapping
from http import HTTPMethod, HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from api import metrics
from api.document import CHALLENGE, RATE_LIMIT, RETRY_AFTER, Error, Responses, error_responses, has_limits
from api.http.prefix import route_path
from api.openai import refusals
from jobs.keys import owner_of
from jobs.store.answers import JobGoneError, JobUnknownError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
MOST_ERRORS = 20  # that one answer tells
LONGEST_NAME = 100  # characters, of what a client named and an answer repeats


class FieldError(BaseModel):
    """One thing wrong with a request: in its body (`pointer`, RFC 6901) or in a parameter."""

    pointer: str | None = None
    parameter: str | None = None
    detail: str

    @property
    def place(self) -> str:
        """Where it is; empty for the body as a whole."""
        return self.parameter or self.pointer or ""


class Problem(BaseModel):
    """The body of every error, but on the routes that OpenAI's clients use."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None


class ProblemError(Exception):
    """Raised by routes to answer with a problem.

    Args:
        status: of the answer.
        code: stable word for programs.
        detail: sentence for people, saying what to do.
        errors: where in the request.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers


def error_response(scope: Scope, error: ProblemError) -> JSONResponse:
    """Return a problem as the response to a request (ASGI), in the shape that its route speaks."""
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        metrics.key_refusals_total.labels(owner_of(scope["state"]["key"]), error.code).inc()
    if refusals.spoken_at(route_path(scope)):
        fields = [(field.place, field.detail) for field in error.errors or ()]
        body = refusals.error_body(error.status, error.code, error.detail, fields)
        return JSONResponse(body.model_dump(), refusals.status_here(error.status), headers=error.headers)
    problem = _problem(error, scope["state"]["request_id"])
    return JSONResponse(
        problem.model_dump(exclude_none=True), error.status, media_type=MEDIA_TYPE, headers=error.headers
    )


def _problem(error: ProblemError, request_id: str) -> Problem:
    return Problem(
        type=f"urn:zimage:problem:{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        errors=error.errors,
    )


def invalid_request(errors: list[FieldError]) -> ProblemError:
    """Return the 422 for a request with something wrong in it; an answer can't be made large by many wrong things."""
    told = errors[:MOST_ERRORS]
    detail = "; ".join(f"{error.place or 'the body'}: {error.detail}" for error in told)
    if more := len(errors) - len(told):
        detail += f"; and {more} more"
    return ProblemError(422, "invalid_request", detail, errors=told)


def shortened(name: str) -> str:
    """Return a client's name for something as an answer repeats it."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def unavailable(
    code: str, detail: str, seconds: float = RETRY_SECONDS, headers: Mapping[str, str] | None = None
) -> ProblemError:
    """Return a 503 that says when to come back."""
    return ProblemError(503, code, detail, headers={"Retry-After": str(whole(seconds)), **(headers or {})})


def whole(seconds: float) -> int:
    """Return seconds as `Retry-After` can tell them: whole ones, rather later than too early, and never none."""
    return max(1, math.ceil(seconds))


_HEADERS = {401: CHALLENGE, 429: RETRY_AFTER, 503: RETRY_AFTER}
_SUBMIT_HEADERS = {
    **_HEADERS,
    422: RATE_LIMIT,
    429: {**RETRY_AFTER, **RATE_LIMIT},
    503: {**RETRY_AFTER, **RATE_LIMIT},
}


def problem_responses(*errors: Error) -> Responses:
    """Return the OpenAPI entries of the problems that a route answers with, given as status, code and detail."""

    def example(error: ProblemError) -> dict[str, Any]:
        return _problem(error, request_id="3f9c1e8a4b7d42d0a1c5e6f7").model_dump(exclude_none=True)

    examples = [(status, code, example(ProblemError(status, code, detail))) for status, code, detail in errors]
    return error_responses(MEDIA_TYPE, Problem, examples, _SUBMIT_HEADERS if has_limits(errors) else _HEADERS)


def _pointer(location: tuple[Any, ...]) -> str:
    return "".join("/" + shortened(str(part)).replace("~", "~0").replace("/", "~1") for part in location)


def _message(item: dict[str, Any]) -> str:
    message: str = item["msg"]
    return message.removeprefix("Value error, ")  # pydantic's own words for a validator of ours


def _from_validation(error: RequestValidationError) -> ProblemError:
    found = error.errors()
    first = found[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return ProblemError(400, "malformed_json", f"the body is not valid JSON: {reason}")
    if first["type"] == "missing" and first["loc"] == ("body",):
        return ProblemError(400, "malformed_json", "the body is empty: send a JSON object")
    return invalid_request(
        [
            FieldError(pointer=_pointer(item["loc"][1:]), detail=_message(item))
            if item["loc"][0] == "body"
            else FieldError(parameter=str(item["loc"][-1]), detail=_message(item))
            for item in found
        ]
    )


def _from_http(error: HTTPException) -> ProblemError:
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's word for a body that even its parser gave up on
        return ProblemError(400, "malformed_json", "the body can't be read as JSON")
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return ProblemError(error.status_code, code, str(error.detail), headers=error.headers)


def is_served(scope: Scope) -> bool:
    """Tell whether there is a route for a request (ASGI)."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)


def _allowed_methods(scope: Scope) -> list[str]:
    """All of a path's methods: Starlette itself names those of the first route there alone."""
    allowed = [method for method in HTTPMethod if is_served({**scope, "method": method})]
    return sorted({*allowed, HTTPMethod.HEAD} if HTTPMethod.GET in allowed else allowed)


def _told_where(request: Request) -> str:
    """What to tell who asks for what is not served: where the API is, as this client reaches it."""
    service, path = str(request.base_url).rstrip("/"), request.scope["path"]
    if refusals.spoken_at(route_path(request.scope)):
        return refusals.not_supported(request.method, path, f"{service}/v1")
    return f"nothing is served at {path}: the API is below {service}/v1, and {service}/docs tells of it"


def install_problem_handlers(app: FastAPI) -> None:
    """Let every error that leaves the app be a problem."""

    def answer(request: Request, problem: ProblemError) -> JSONResponse:
        return error_response(request.scope, problem)

    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, _from_validation(error))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.NO_CONTENT:
            return Response(status_code=204)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            error.headers = {"Allow": ", ".join(_allowed_methods(request.scope))}
        elif error.status_code == HTTPStatus.NOT_FOUND:
            error.detail = _told_where(request)
        return answer(request, _from_http(error))

    @app.exception_handler(JobUnknownError)
    async def on_unknown_job(request: Request, _error: JobUnknownError) -> JSONResponse:
        return answer(request, ProblemError(404, "job_not_found", "there is no job of this id"))

    @app.exception_handler(JobGoneError)
    async def on_gone_job(request: Request, _error: JobGoneError) -> JSONResponse:
        return answer(request, ProblemError(410, "job_gone", "the job was deleted or is past its retention"))

    @app.exception_handler(RedisError)
    async def on_redis(request: Request, error: RedisError) -> JSONResponse:
        log.warning("Redis is away: %s", error)
        return answer(request, unavailable("queue_unavailable", "the queue can't be reached: send the request again"))
