"""Traces: a trajectory goes on in the engine and the verifier, a job's steps meet in one trace, and off means off."""

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from shared import tracing
from shared.errors import SettingsError
from tests.fakes.engine import FakeEngine
from tests.rollout.client import finish, submit


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where this process's spans go for one test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    return exporter


def context_of(span: ReadableSpan) -> SpanContext:
    """Every recorded span has one."""
    assert span.context is not None
    return span.context


def trace_of(span: ReadableSpan) -> int:
    """The trace that a span belongs to."""
    return context_of(span).trace_id


async def test_a_trajectorys_trace_reaches_engine_and_verifier_and_is_linked_to_its_jobs(
    recorded: InMemorySpanExporter, service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    job = await submit(service, sampling={"trajectories": 2})
    await finish(service, job)
    spans = [span for span in recorded.get_finished_spans() if span.context]
    by_name = {name: [span for span in spans if span.name == name] for name in {span.name for span in spans}}
    trajectories = by_name["trajectory"]
    assert len(trajectories) == 12
    assert {str(span.attributes["drift.job"]) for span in trajectories if span.attributes} == {job}
    traces = {trace_of(span) for span in trajectories}
    assert len(traces) == 12
    for part in ("sample", "grade"):
        assert traces <= {trace_of(span) for span in by_name[part]}
    served = by_name["POST /v1/verify"]
    assert served and {trace_of(span) for span in served} <= traces
    sampled = {f"{trace_of(span):032x}-{context_of(span).span_id:016x}" for span in by_name["sample"]}
    sent = [header for header in engine.traceparents if header]
    assert {header[3:52] for header in sent} == sampled
    [job_trace] = {trace_of(span) for span in by_name["rollout"] + by_name["prepare"]}
    assert all(span.links[0].context.trace_id == job_trace for span in trajectories)


def test_without_an_endpoint_nothing_is_recorded_or_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    tracing.configure_tracing("test")
    with tracing.span("anything", number=1) as span:
        assert not span.is_recording()
        assert tracing.outgoing_headers() == {}


def test_an_endpoint_without_the_sdk_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match="extra `otel`"):
        tracing.configure_tracing("test")
