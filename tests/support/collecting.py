"""A receiver of traces: a real OTLP/HTTP server that decodes and keeps the spans it gets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from support.loopback import serving


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int  # nanoseconds since 1970
    end: int
    attributes: dict[str, Any]
    error: str | None  # message of a status that says so


@dataclass
class Collector:
    url: str
    spans: list[Span] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)  # requests hang while it is not set

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def collector() -> Iterator[Collector]:
    """Serve on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if (self.path, self.headers["content-type"]) != ("/v1/traces", "application/x-protobuf"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers["content-length"]))
            running.answering.wait(30)
            running.spans.extend(_decoded(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler) as url:
        running = Collector(url)
        running.answering.set()
        yield running
        running.answering.set()


def _decoded(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource)["service.name"]
        for scope in resource.scope_spans:
            for message in scope.spans:
                yield _span(service, message)


def _span(service: str, message: Message) -> Span:
    return Span(
        service,
        message.name,
        message.trace_id.hex(),
        message.span_id.hex(),
        message.parent_span_id.hex(),
        message.start_time_unix_nano,
        message.end_time_unix_nano,
        _attributes(message),
        message.status.message if message.status.code == message.status.STATUS_CODE_ERROR else None,
    )


def _attributes(holder: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))
        for pair in holder.attributes
        if pair.value.WhichOneof("value")
    }
