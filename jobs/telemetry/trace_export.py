"""Export of spans by OTLP over HTTP, where OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, …) ask for it.

An extra of the installation. Spans leave on a thread of their own; a receiver that is away costs nothing but them.
"""

import logging
import os
import threading

from opentelemetry import propagate, trace

from jobs import __version__
from jobs.addresses.servers import http_variable
from jobs.telemetry.trace_context import OneTraceParent

log = logging.getLogger(__name__)

FLUSH_SECONDS = 3.0  # that a process which ends gives to what was not sent yet
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def receiver() -> str | None:
    """Return the variable that names a receiver of spans; None: there is none, or no spans are wanted.

    Raises:
        ValueError: it names none that spans can be sent to; the message says which variable.
    """
    named = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if named is None or disabled or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    http_variable(named)
    return named


def start(service: str) -> None:
    """Export this process's spans from now on, if the environment names a receiver.

    Args:
        service: `service.name`, unless the environment has another.
    """
    try:
        named = receiver()
    except ValueError as error:
        log.warning("no traces are exported: %s", error)
        return
    if named is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        log.warning("%s is set, but no traces are exported: %s: pip install 'zimage-service[otel]'", named, error)
        return
    chosen = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": service, "service.version": __version__, **chosen})
    # It would wait for its receiver at exit, for longer than whoever stops this process.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    propagate.set_global_textmap(OneTraceParent())
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what was not sent yet; gives up after `FLUSH_SECONDS`."""
    send = getattr(trace.get_tracer_provider(), "force_flush", None)
    if send:
        sending = threading.Thread(target=send, name="trace-flush", daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)
