"""Makes OpenTelemetry's spans of what `tracing.py` notes, and exports them by OTLP over HTTP.

The only module that imports opentelemetry, which is an extra: `paidup[otel]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from paidup import __version__
from paidup.runtime.tracing import Destination, Kind, Noted

log = structlog.get_logger(__name__)

EXPORT_S = 5.0
"""How long one export, and the end of a process, waits for the endpoint."""
_PROPAGATOR = TraceContextTextMapPropagator()


@asynccontextmanager
async def otlp_exporter(to: Destination) -> AsyncIterator[SpanExporter]:
    """Export to an OTLP endpoint, in a thread. Its queue is bounded: what is too much is dropped."""
    endpoint = f"{to.endpoint.rstrip('/')}/v1/traces"
    otlp = OTLPSpanExporter(endpoint, headers=dict(to.headers), timeout=EXPORT_S)
    async with span_exporter(to, BatchSpanProcessor(otlp)) as exporter:
        yield exporter


@asynccontextmanager
async def span_exporter(to: Destination, processor: SpanProcessor) -> AsyncIterator[SpanExporter]:
    """Give the spans to `processor`, and close it at the end."""
    by_id = TraceIdRatioBased(to.ratio)
    # By the trace's id, whatever the caller's flag says: a page cannot have all of its requests sampled.
    sampler = ParentBased(by_id, remote_parent_sampled=by_id, remote_parent_not_sampled=ALWAYS_OFF)
    resource = Resource.create({"service.name": to.service, "service.version": __version__})
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    try:
        yield SpanExporter(provider.get_tracer("paidup", __version__))
    finally:
        try:
            await asyncio.wait_for(asyncio.to_thread(provider.shutdown), EXPORT_S)
        except TimeoutError:
            log.warning("spans_not_exported", endpoint=to.endpoint)


class SpanExporter:
    """An `Exporter` of tracing.py."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, name: str, kind: Kind, parent: str | None, began: int) -> Span:
        context = _PROPAGATOR.extract({"traceparent": parent}, Context()) if parent else Context()
        return self._tracer.start_span(name, context, SpanKind[kind], start_time=began)

    def traceparent(self, span: Span) -> str:
        at = span.get_span_context()
        return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"

    def end(self, span: Span, noted: Noted, steps: list[Noted]) -> None:
        if span.is_recording():
            for step in steps:
                self.add(span, step)
            span.update_name(noted.name)
            _describe(span, noted)
        span.end(noted.ended)

    def add(self, span: Span, step: Noted) -> None:
        child = self._tracer.start_span(
            step.name, set_span_in_context(span, Context()), SpanKind[step.kind], start_time=step.began
        )
        _describe(child, step)
        child.end(step.ended)


def _describe(span: Span, noted: Noted) -> None:
    span.set_attributes({name: value for name, value in noted.attributes.items() if value is not None})
    if noted.failed:
        span.set_attribute("error.type", noted.failed)
        span.set_status(StatusCode.ERROR)
