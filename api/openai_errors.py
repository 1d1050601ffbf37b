"""Errors in OpenAI's shape, for the routes of its clients: they read `error.code`, `error.param` and so on."""

from pydantic import BaseModel, Field

from api.document import CHALLENGE, RATE_LIMIT, RETRY_AFTER, SHOULD_RETRY, Error, Responses, error_responses

_PARAMETERS = {"width": "size", "height": "size"}  # a job's field by the name that OpenAI's request has for it


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
    """Tell whether errors at this path are in OpenAI's shape."""
    return path == "/v1/models" or path.startswith(("/v1/models/", "/v1/images/"))


def error_body(status: int, code: str, detail: str, pointer: str | None) -> OpenAIErrorBody:
    """Return a problem as OpenAI's clients read it.

    Args:
        status: of the answer.
        code: stable word for programs.
        detail: sentence for people.
        pointer: JSON pointer to the field that is wrong, if one is.
    """
    match status:
        case 401:
            kind = "authentication_error"
        case 429:
            kind = "rate_limit_error"
        case _:
            kind = "invalid_request_error" if status < 500 else "server_error"
    field = pointer.split("/")[1] if pointer else None
    return OpenAIErrorBody(
        error=OpenAIError(message=detail, type=kind, param=_PARAMETERS.get(field, field) if field else None, code=code)
    )


_HEADERS = {
    401: CHALLENGE,
    409: SHOULD_RETRY,
    429: {**RETRY_AFTER, **RATE_LIMIT},
    500: SHOULD_RETRY,
    503: {"Retry-After": {**RETRY_AFTER["Retry-After"], "required": False}, **SHOULD_RETRY},
    504: SHOULD_RETRY,
}


def openai_error_responses(*errors: Error) -> Responses:
    """Return the OpenAPI entries of the errors that a route answers with, given as status, code and message."""
    examples = [(*error[:2], error_body(*error, pointer=None).model_dump()) for error in errors]
    return error_responses("application/json", OpenAIErrorBody, examples, _HEADERS)
