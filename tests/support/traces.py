"""The spans that this process makes while a test runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from paidup.runtime.spans import span_exporter
from paidup.runtime.tracing import Destination, exporting

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLICK = f"00-{TRACE}-00f067aa0ba902b7-01"
"""The example of https://www.w3.org/TR/trace-context/#examples-of-http-traceparent-headers."""

Spans = Callable[[], list[ReadableSpan]]


@asynccontextmanager
async def collected_spans(ratio: float = 1.0) -> AsyncIterator[Spans]:
    """Those that have ended so far."""
    exporter = InMemorySpanExporter()
    async with span_exporter(Destination(ratio=ratio), SimpleSpanProcessor(exporter)) as made:
        with exporting(made):
            yield lambda: list(exporter.get_finished_spans())


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"
