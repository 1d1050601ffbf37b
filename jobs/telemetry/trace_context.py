"""The trace that work belongs to: W3C Trace Context, from the client's `traceparent` by the job's record to the worker.

OpenTelemetry's context holds it, whether spans are exported or not: logs tell its id in any case.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

HEADER = "traceparent"


class OneTraceParent(TraceContextTextMapPropagator):
    """W3C Trace Context to the letter: several `traceparent` headers are as good as none."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        """Return the context with the trace that a carrier names, if it does (OpenTelemetry)."""
        if len(getter.get(carrier, HEADER) or ()) != 1:
            return context or Context()
        return super().extract(carrier, context, getter)


_propagator = OneTraceParent()


@contextmanager
def entered(headers: Sequence[str]) -> Iterator[None]:
    """Work on a request within the trace of its span, where spans are exported; else the client's, else a new one.

    Args:
        headers: values of the request's `traceparent` headers.
    """
    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    named = _propagator.extract({HEADER: headers})
    with _attached(named or trace.set_span_in_context(NonRecordingSpan(_new_trace()))):
        yield


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Work on a job within the trace that its record names; within none, where it names none."""
    with _attached(context_of(traceparent)):
        yield


def context_of(traceparent: str | None) -> Context:
    """Return the context that a record's `traceparent` names; an empty one, where it names none."""
    return _propagator.extract({HEADER: traceparent} if traceparent else {})


def current_traceparent() -> str | None:
    """Return what names the trace at hand to those who continue it; None outside of any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(HEADER)


def _new_trace() -> SpanContext:
    # Sampled, or workers that export spans would leave out what an API without OpenTelemetry took in.
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(secrets.randbits(128), secrets.randbits(64), is_remote=True, trace_flags=flags)


@contextmanager
def _attached(work: Context) -> Iterator[None]:
    token = context.attach(work)
    try:
        yield
    finally:
        context.detach(token)
