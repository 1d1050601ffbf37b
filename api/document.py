"""The OpenAPI document: the headers that it names, and what FastAPI's own document lacks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from jobs.spec import IDLE_NEGATIVE_PROMPT

Headers = dict[str, dict[str, Any]]
Responses = dict[int | str, dict[str, Any]]
Error = tuple[int, str, str]  # status, code, and a detail as an example

_REFERENCE = "#/components/schemas/{model}"


def _header(description: str, example: str | int, *, always: bool = True, **schema: Any) -> dict[str, Any]:
    return {
        "description": description,
        "required": always,
        "schema": {"type": "string", **schema},
        "example": example,
    }


LOCATION: Headers = {
    "Location": _header(
        "The job.", "http://127.0.0.1:8000/v1/jobs/job_3f9c1e8a4b7d42d0a1c5e6f708192a3b", format="uri-reference"
    )
}
IMAGE_LOCATION: Headers = {
    "Location": _header(
        "The image's presigned URL: needs no credentials and ends after a while.",
        "https://s3.example/zimage/jobs/job_3f9c1e8a4b7d42d0a1c5e6f708192a3b/1/0.png?X-Amz-Signature=5d41402abc4b2a76",
        format="uri-reference",
    )
}
RETRY_AFTER: Headers = {"Retry-After": _header("Seconds to wait before asking again.", 5, type="integer", minimum=1)}
PENDING: Headers = {
    "Retry-After": _header(
        "While the job has not ended: seconds after which a look is worth it.",
        1,
        always=False,
        type="integer",
        minimum=1,
        maximum=30,
    )
}
ETAG: Headers = {"ETag": _header("Send it back as `If-None-Match`.", 'W/"3f9c1e8a4b7d42d0a1c5e6f7"')}
CACHE_CONTROL: Headers = {"Cache-Control": _header("What caches may do with the answer.", "private, no-cache")}
PREFERENCE_APPLIED: Headers = {
    "Preference-Applied": _header("The wait that was asked for, as far as it is granted.", "wait=30", always=False)
}
REPLAYED: Headers = {
    "Idempotent-Replayed": _header("The job is an earlier request's.", "true", always=False, const="true")
}
RATE_LIMIT: Headers = {
    "RateLimit-Policy": _header(
        "At submits by a key with a rate: it has `q` of them in `w` seconds.", '"submits";q=60;w=60', always=False
    ),
    "RateLimit": _header(
        "At submits by a key with a rate: `r` are left now, all of them are again in `t` seconds.",
        '"submits";r=59;t=1',
        always=False,
    ),
}
CHALLENGE: Headers = {"WWW-Authenticate": _header("How to authenticate.", "Bearer")}
SHOULD_RETRY: Headers = {
    "X-Should-Retry": _header("Whether OpenAI's clients send it again.", "false", always=False, enum=["true", "false"])
}
WARNINGS: Headers = {
    "X-Warnings": _header(
        "Where there are `warnings`: the same, as JSON strings separated by commas.",
        f'"{IDLE_NEGATIVE_PROMPT}"',
        always=False,
    )
}
STREAMED: Headers = {**CACHE_CONTROL, "X-Accel-Buffering": _header("Keeps nginx from holding events back.", "no")}

FAULT: Error = (500, "internal_error", "this is a fault of the service: report it with the request_id")
REPEATED: Error = (400, "repeated_header", "Idempotency-Key came more than once: send it once")
STREAMS: Error = (
    429,
    "too_many_streams",
    "key mine has 500 event streams and waits open: let one end, or poll",
)
AWAY: Error = (503, "queue_unavailable", "the queue can't be reached: send the request again")
UNKEYED: Sequence[Error] = [
    REPEATED,
    (414, "url_too_long", "path and query may have at most 4096 bytes"),
    (
        403,
        "forbidden_host",
        "without API keys call it by a loopback address or localhost, or name this host in ZIMAGE_ALLOWED_HOSTS",
    ),
    (
        403,
        "forbidden_origin",
        "without API keys other sites' pages are not served; a proxy has to pass Host on as it came",
    ),
    FAULT,
    (503, "too_many_connections", "too many connections are open already: send the request again later"),
]
KEYED: Sequence[Error] = [
    (401, "invalid_api_key", "send a valid API key as `Authorization: Bearer KEY`; `zimage keys create` makes one"),
    (429, "too_many_reads", "key mine may read 100 times a second: send it again in 1 s"),
    (429, "too_many_refusals", "requests by key mine were refused too often: send it again in 2 s"),
    *UNKEYED,
    AWAY,
]
SUBMITTED: Sequence[Error] = [
    REPEATED,
    (400, "malformed_json", "the body is not valid JSON: Expecting value"),
    (408, "body_timeout", "the body did not come within 20 s: send again"),
    (410, "job_gone", "the job was deleted or is past its retention"),
    (413, "body_too_large", "the body may have at most 65536 bytes"),
    (415, "unsupported_media_type", "send JSON with Content-Type: application/json"),
    (415, "unsupported_content_encoding", "the body's Content-Encoding is gzip: send it as it is, without one"),
    (422, "invalid_request", "/prompt: String should have at least 1 character"),
    (422, "idempotency_key_reused", "this Idempotency-Key came with another body before: take a new key for a new job"),
    (429, "rate_limited", "key mine may submit 60 jobs a minute: send it again in 12 s"),
    (429, "work_limited", "key mine may ask for 500,000,000 pixels × steps × images a minute: send it again in 12 s"),
    (
        429,
        "queue_share_full",
        "key mine has filled its share of the queue: wait for its jobs to be drawn, or cancel some",
    ),
    (
        429,
        "memory_share_full",
        "key mine has filled its share of the memory: delete jobs that have ended, or wait until old ones are removed",
    ),
    (429, "too_many_jobs", "key mine may have 8 jobs queued or running: wait for one to end, or cancel one"),
    (
        429,
        "too_many_lookups",
        "/webhook_url: hooks.example was not looked up: too many names sent before get no answer from their name "
        "servers: send the request again later, with names that resolve",
    ),
    AWAY,
    (503, "queue_full", "10000 jobs are waiting already: send it again in 7 s"),
]

_REQUEST_ID: Headers = {
    "X-Request-ID": _header("The request's `X-Request-ID`, or one that was made for it.", "3f9c1e8a4b7d42d0a1c5e6f7")
}
# Without patterns: what does not fit is passed over, not refused.
_GIVEN_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    **_header("The request's name in the answer and in logs: 1–128 visible ASCII characters.", "mine-1", always=False),
}
_TRACE_PARENT = {
    "name": "traceparent",
    "in": "header",
    **_header(
        "W3C Trace Context: the trace that the request, and the job that it submits, belong to in logs and traces.",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        always=False,
    ),
}


def _job_link(operation: str, **parameters: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"job_id": "$response.body#/id", **parameters}}


# OpenAPI's links: from an answer with a job to what can be asked about it.
JOB_LINKS = {
    "get_job": _job_link("get_job", prefer="wait=60"),
    **{operation: _job_link(operation) for operation in ("cancel_job", "delete_job", "job_events")},
}
IMAGE_LINKS = {"get_image": _job_link("get_image", index="$response.body#/images/0/index")}


def has_limits(errors: Iterable[Error]) -> bool:
    """Tell whether these are a submit's errors: nothing else is told what a key's rate leaves."""
    return any(code == "rate_limited" for _, code, _ in errors)


def error_responses(
    media_type: str,
    model: type[BaseModel],
    errors: Iterable[tuple[int, str, dict[str, Any]]],
    headers: Mapping[int, Headers],
) -> Responses:
    """Return the OpenAPI entries of the errors that a route answers with.

    Args:
        media_type: of their bodies.
        model: of their bodies.
        errors: status, code and body of each, as an example.
        headers: by status.
    """
    schema = {"$ref": _REFERENCE.format(model=model.__name__)}  # `openapi` is to be told of it
    responses: Responses = {"default": {"description": "Any other error", "content": {media_type: {"schema": schema}}}}
    for status, code, body in errors:
        content = {media_type: {"schema": schema, "examples": {}}}
        entry = responses.setdefault(status, {"headers": headers.get(status, {}), "content": content})
        entry["content"][media_type]["examples"][code] = {"value": body}
    return responses


def openapi(app: FastAPI, models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return the app's document, made at first use.

    Args:
        app: all routes included.
        models: whose schemas are taken from pydantic itself: those that errors refer to, since FastAPI has
            not heard of them, and those with nulls in their examples, since FastAPI drops nulls.
    """
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            license_info=app.license_info,
            servers=app.servers,
            routes=app.routes,
            webhooks=app.webhooks.routes,
        )
        document["security"] = []  # what names no key of its own needs none
        schemas = document["components"]["schemas"]
        for model in models:
            schema = model.model_json_schema(ref_template=_REFERENCE, mode="serialization")
            schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
        for path in document["paths"].values():
            for operation in path.values():
                operation["parameters"] = [*operation.get("parameters", []), _GIVEN_REQUEST_ID, _TRACE_PARENT]
                for response in operation["responses"].values():
                    response["headers"] = {**response.get("headers", {}), **_REQUEST_ID}
                    for content in response.get("content", {}).values():
                        # FastAPI's word for the events of a stream, which is OpenAPI 3.2's; this is a document of 3.1.
                        content.pop("itemSchema", None)
        app.openapi_schema = document
    return app.openapi_schema
