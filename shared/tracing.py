"""Traces by OpenTelemetry; without OTEL_EXPORTER_OTLP_ENDPOINT nothing is recorded or sent.

The parts of one job meet in one trace, whose id is made from the job's, whichever process they run in. Each trajectory
has a trace of its own, linked to the job's; it goes on in the engine and the verifier by W3C `traceparent`.
"""

import hashlib
import os
from contextlib import AbstractContextManager, nullcontext

from opentelemetry import propagate, trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer

from shared.errors import SettingsError

Value = str | int | float | bool

_tracer: Tracer | None = None
"""None where nothing is recorded: even a span that records nothing costs a tenth of a turn's time."""
_NOTHING = nullcontext(trace.INVALID_SPAN)


def configure_tracing(service: str) -> None:
    """Send spans to OTEL_EXPORTER_OTLP_ENDPOINT (OTLP over HTTP), where that is set; raises `SettingsError`."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but OpenTelemetry's SDK is not installed.",
            remedy="Install the extra `otel`.",
        ) from None
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"drift-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    global _tracer
    _tracer = provider.get_tracer("drift")


def span(name: str, **attributes: Value) -> AbstractContextManager[Span]:
    """A part of what is under way."""
    return _tracer.start_as_current_span(name, attributes=_named(attributes)) if _tracer else _NOTHING


def job_span(name: str, job: str, **attributes: Value) -> AbstractContextManager[Span]:
    """A part of a job, in the job's trace."""
    if _tracer is None:
        return _NOTHING
    parent = trace.set_span_in_context(NonRecordingSpan(_job_context(job)))
    return _tracer.start_as_current_span(name, parent, attributes=_named({"job": job} | attributes))


def trajectory_span(job: str, **attributes: Value) -> AbstractContextManager[Span]:
    """A trace of its own, linked to the job's."""
    if _tracer is None:
        return _NOTHING
    return _tracer.start_as_current_span(
        "trajectory",
        trace.set_span_in_context(trace.INVALID_SPAN),
        attributes=_named({"job": job} | attributes),
        links=[Link(_job_context(job))],
    )


def serving_span(name: str, headers: dict[str, str]) -> AbstractContextManager[Span]:
    """The work on a request, in the trace of who asked."""
    if _tracer is None:
        return _NOTHING
    return _tracer.start_as_current_span(name, propagate.extract(headers), kind=SpanKind.SERVER)


def outgoing_headers() -> dict[str, str]:
    """`traceparent` for a request to another service; empty where nothing is recorded."""
    headers: dict[str, str] = {}
    if _tracer is not None:
        propagate.inject(headers)
    return headers


def _named(attributes: dict[str, Value]) -> dict[str, Value]:
    return {f"drift.{name}": value for name, value in attributes.items()}


def _job_context(job: str) -> SpanContext:
    digest = hashlib.blake2b(job.encode(), digest_size=24).digest()
    return SpanContext(
        trace_id=int.from_bytes(digest[:16]),
        span_id=int.from_bytes(digest[16:]),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
