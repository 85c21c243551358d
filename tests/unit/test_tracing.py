"""Operations and their steps as OpenTelemetry's spans, and their export."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.testing import capture_logs

from paidup.runtime.telemetry import tracing
from paidup.runtime.tracing import Destination, Kind, current_trace, operation, step
from paidup.web.traces import Traces
from tests.support.traces import CLICK, TRACE, Spans, collected_spans, trace_of


@pytest.fixture
async def spans() -> AsyncIterator[Spans]:
    async with collected_spans() as spans:
        yield spans


async def test_a_task_that_outlasts_its_request_stays_in_its_trace(
    spans: Spans,
) -> None:
    ended = asyncio.Event()

    async def late() -> None:
        await ended.wait()
        with step("publish"):
            pass

    with operation("POST /webhooks/stripe", parent=CLICK):
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    ended.set()
    await task
    assert {span.name: trace_of(span) for span in spans()} == {
        "POST /webhooks/stripe": TRACE,
        "publish": TRACE,
    }


async def test_a_malformed_traceparent_is_no_trace_and_in_no_log(spans: Spans) -> None:
    seen: list[str | None] = []

    async def application(*_: Any) -> None:
        seen.append(current_trace())

    for given in ("", "of somebody else's choice, in every line", CLICK.upper(), f"{CLICK}-00", CLICK):
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"traceparent", given.encode())]}
        await Traces(application)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [None, None, None, None, TRACE]


async def test_an_error_is_the_status_of_its_step(spans: Spans) -> None:
    def refused() -> None:
        with operation("verify"), step("Stripe invoices.retrieve", Kind.CLIENT):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        refused()
    for span in spans():
        assert (span.status.status_code.name, (span.attributes or {})["error.type"]) == (
            "ERROR",
            "TimeoutError",
        )


async def test_without_the_extra_a_server_is_not_traced_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform may set the endpoint for all that it runs: no reason not to serve customers."""
    monkeypatch.setitem(sys.modules, "paidup.runtime.spans", None)
    with capture_logs() as lines:
        async with tracing(Destination("http://127.0.0.1:1")):
            with step("settle") as attributes:
                assert attributes is None
    (line,) = lines
    assert line["problem"] == "OTEL_EXPORTER_OTLP_ENDPOINT is set: pip install 'paidup[otel]'"


async def test_spans_are_exported_as_otlp_and_an_endpoint_that_is_gone_costs_nothing() -> None:
    """To a receiver of OTLP over HTTP; with none there, nothing waits and nothing fails."""
    received: list[tuple[str, Any]] = []

    async def receive(request: web.Request) -> web.Response:
        given = ExportTraceServiceRequest.FromString(await request.read())
        received.append((request.headers["authorization"], given))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    to = Destination(f"http://127.0.0.1:{port}/", {"authorization": "Bearer x"}, service="billing")
    async with tracing(to):
        with step("settle") as attributes:
            assert attributes is not None
            attributes["paidup.outcome"] = "settled"
    await runner.cleanup()
    ((authorization, given),) = received
    (resource,) = given.resource_spans
    about = {each.key: each.value.string_value for each in resource.resource.attributes}
    (span,) = resource.scope_spans[0].spans
    assert (authorization, about["service.name"], span.name) == ("Bearer x", "billing", "settle")
    async with tracing(to):
        with step("settle"):
            pass
    with step("settle") as off:
        assert off is None
