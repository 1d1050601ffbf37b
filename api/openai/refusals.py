"""Errors in OpenAI's shape, for the routes of its clients: they read `error.code`, `error.param` and so on."""

from collections.abc import Sequence

from pydantic import BaseModel, Field

from api.document import (
    CHALLENGE,
    RATE_LIMIT,
    REPLAYED,
    RETRY_AFTER,
    SHOULD_RETRY,
    Error,
    Responses,
    error_responses,
    has_limits,
)

# What OpenAI's clients call below their base URL, whether it is here or not, and whatever they take for that URL.
_RESOURCES = frozenset(
    (
        *("audio", "batches", "chat", "completions", "deployments", "embeddings", "engines", "files", "image"),
        *("images", "models", "moderations", "responses", "videos"),
    )
)
_OURS = frozenset(("docs", "jobs", "queue"))


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str = Field(description="A sentence for people, saying what to do.")
    type: str = Field(examples=["invalid_request_error", "server_error"])
    param: str | None = Field(None, description="The first of the request's fields that is wrong, if one is.")
    code: str = Field(description="A stable word for programs.", examples=["model_not_found", "queue_full"])


class OpenAIErrorBody(BaseModel):
    """The body of every error on the routes that OpenAI's clients use."""

    error: OpenAIError


def spoken_at(path: str) -> bool:
    """Tell whether errors at this path, below the service's prefix, are in OpenAI's shape."""
    groups = _RESOURCES | _OURS
    return next((name for name in path.lower().split("/") if name in groups), None) in _RESOURCES


def not_supported(method: str, path: str, base_url: str) -> str:
    """Return what to tell a client that calls what OpenAI has and this service has not, or has elsewhere.

    Args:
        method: of the request.
        path: of the request.
        base_url: what OpenAI's clients need, as this client reaches it.
    """
    here = f"at POST {base_url}/images/generations: OpenAI's clients need base_url={base_url}"
    return f"{method} {path} is not supported: this service draws images, {here}"


def status_here(status: int) -> int:
    """Return the status that OpenAI has for a problem: of bad values 400, which its clients have a class for."""
    return 400 if status == 422 else status


def error_body(status: int, code: str, detail: str, fields: Sequence[tuple[str, str]] = ()) -> OpenAIErrorBody:
    """Return a problem as OpenAI's clients read it.

    Args:
        status: of the answer.
        code: stable word for programs.
        detail: sentence for people; where there are fields, theirs are told instead.
        fields: JSON pointer (or name) of each field that is wrong, and what is wrong with it.
    """
    match status:
        case 401:
            kind = "authentication_error"
        case 429:
            kind = "rate_limit_error"
        case _:
            kind = "invalid_request_error" if status < 500 else "server_error"
    named = [(pointer.removeprefix("/").replace("/", ": "), told) for pointer, told in fields]
    message = "; ".join(f"{name or 'the body'}: {told}" for name, told in named) or detail
    param = fields[0][0].removeprefix("/").partition("/")[0] or None if fields else None
    return OpenAIErrorBody(error=OpenAIError(message=message, type=kind, param=param, code=code))


_WAITED = {**RATE_LIMIT, **REPLAYED, **SHOULD_RETRY}
_HEADERS = {401: CHALLENGE, 429: RETRY_AFTER, 503: RETRY_AFTER}
_SUBMIT_HEADERS = {
    **_HEADERS,
    400: RATE_LIMIT,
    409: _WAITED,
    429: {**RETRY_AFTER, **RATE_LIMIT},
    500: _WAITED,
    503: {"Retry-After": {**RETRY_AFTER["Retry-After"], "required": False}, **_WAITED},
    504: _WAITED,
}


def openai_error_responses(*errors: Error) -> Responses:
    """Return the OpenAPI entries of the errors that a route answers with, given as status, code and message."""
    examples = [(status_here(error[0]), error[1], error_body(*error).model_dump()) for error in errors]
    headers = _SUBMIT_HEADERS if has_limits(errors) else _HEADERS
    return error_responses("application/json", OpenAIErrorBody, examples, headers)
