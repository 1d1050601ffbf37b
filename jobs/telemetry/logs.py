"""Logging of API and worker, to stderr: text for people, or JSON, one object a line, with the ids of what it is about.

Who works on a request or a job says so once (`about`), and each line that is logged meanwhile carries it, whoever logs.
"""

import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal

from opentelemetry import trace
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from jobs.record import Attempt
from jobs.telemetry.trace_context import continued

log = logging.getLogger(__name__)

_QUIET = (
    "botocore",  # announces where it found credentials, each time
    "celery",  # tells of every ring of the doorbell
    "httpx",  # tells webhooks' URLs, which may hold receivers' secrets
)
_fields: ContextVar[Mapping[str, object]] = ContextVar("fields", default=MappingProxyType({}))


def configure_logging(form: Literal["text", "json"]) -> None:
    """Set up the process's logging; warnings and uncaught exceptions are logged too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(form))
    handler.addFilter(_add_fields)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = lambda *error: log.critical("uncaught exception", exc_info=error)
    threading.excepthook = _log_uncaught


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Add fields to each line that is logged meanwhile, by this thread or asyncio task."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


@contextmanager
def about(job: Attempt) -> Iterator[None]:
    """Add a job's ids to each line that is logged meanwhile, those of its trace included."""
    with bound(job_id=job.id, attempt=job.attempt, key=job.owner), continued(job.traceparent):
        yield


def _log_uncaught(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_type is not SystemExit:  # a thread's way to end
        name = hook.thread.name if hook.thread else "a thread"
        log.critical("uncaught exception in %s", name, exc_info=hook.exc_value)


def _formatter(form: Literal["text", "json"]) -> logging.Formatter:
    if form == "text":
        return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
        timestamp="time",
        json_ensure_ascii=not sys.stderr.encoding.lower().startswith("utf"),  # others would make it no JSON
    )


def _add_fields(record: logging.LogRecord) -> bool:
    span = trace.get_current_span().get_span_context()
    ids = {"trace_id": trace.format_trace_id(span.trace_id)} if span.is_valid else {}
    # What a line says of itself goes first: it may be about another job than the one at hand.
    record.__dict__ = {**_fields.get(), **ids, **record.__dict__}
    return True
