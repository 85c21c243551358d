"""Traces by OpenTelemetry: one payment is one trace, whatever credits it, and in whichever process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from paidup.db.models import Invoice
from tests.conftest import World
from tests.support.paidup import Customer, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.traces import CLICK, TRACE, Spans, collected_spans, trace_of
from tests.support.waiting import wait_until


@pytest.fixture
async def spans(request: pytest.FixtureRequest) -> AsyncIterator[Spans]:
    async with collected_spans(getattr(request, "param", 1.0)) as spans:
        yield spans


async def bought(customer: Customer, stripe_side: StripeSide) -> Any:
    """A plan that is paid and credited, whose page has sent a traceparent."""
    _, purchase = await sent(customer, "POST", "/api/subscriptions", CLICK, json={"plan": "pro"})
    await stripe_side.confirm(purchase["client_secret"])
    async with customer.watch(purchase) as socket:
        return await status_with(socket, status="active")


async def sent(customer: Customer, method: str, path: str, traceparent: str, **given: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {customer.token()}", "traceparent": traceparent}
    url = customer.paidup.url + path
    async with customer.http.request(method, url, headers=headers, **given) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("webhooks", [True, False], ids=["webhook", "verification"])
async def test_a_payment_is_one_trace(
    world: World, stripe_side: StripeSide, spans: Spans, webhooks: bool
) -> None:
    """From the click to the frame, with Stripe's request ids; what credits it joins as it reads the row."""
    paidup = await world.server(webhooks=webhooks)
    told = await bought(paidup.customer("ada"), stripe_side)
    assert told["traceparent"][:35] == CLICK[:35]
    wanted = {"POST /api/subscriptions", "settle", "publish", "wait invoice"}
    wanted.add("POST /webhooks/stripe" if told["via"] == "webhook" else "verify")

    def mine() -> dict[str, ReadableSpan]:
        return {span.name: span for span in spans() if trace_of(span) == TRACE}

    def credited() -> list[str]:
        settled = [span for span in spans() if (span.attributes or {}).get("paidup.outcome") == "settled"]
        return [trace_of(span) for span in settled]

    await wait_until(lambda: wanted <= set(mine()) and credited())
    calls = [span for name, span in mine().items() if name.startswith("Stripe ")]
    assert calls
    for call in calls:
        assert call.kind.name == "CLIENT"
        assert str((call.attributes or {})["stripe.request_id"]).startswith("req_")
    assert credited() == [TRACE]
    assert (mine()["wait invoice"].attributes or {})["paidup.source"] == told["via"]


@pytest.mark.parametrize("spans", [0.0], indirect=True)
async def test_a_page_cannot_have_its_requests_sampled(
    world: World, stripe_side: StripeSide, spans: Spans
) -> None:
    """Its flag says "sampled", and the setting says none: a share is taken by the traces' ids."""
    paidup = await world.server()
    told = await bought(paidup.customer("ada"), stripe_side)
    assert told["traceparent"][:35] == CLICK[:35]
    assert told["traceparent"].endswith("-00")
    assert spans() == []


async def test_a_malformed_traceparent_begins_a_new_trace(world: World, spans: Spans) -> None:
    paidup = await world.server()
    for malformed in ("", "x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", CLICK * 100, CLICK.upper()):
        assert (await sent(paidup.customer("ada"), "GET", "/api/credits", malformed))[0] == 200
    found = [span for span in spans() if span.name == "GET /api/credits"]
    assert len({trace_of(span) for span in found} - {"0" * 32, TRACE}) == 5


async def test_where_nothing_is_traced_a_row_and_a_frame_say_nothing_of_it(
    world: World, stripe_side: StripeSide
) -> None:
    told = await bought((await world.server()).customer("ada"), stripe_side)
    assert "traceparent" not in told
    assert (await Invoice.get(id=told["invoice"])).traceparent is None


async def test_metrics_name_the_trace(
    world: World,
    stripe_side: StripeSide,
    spans: Spans,
    http: aiohttp.ClientSession,
) -> None:
    """An exemplar on the time of an activation, for those who ask for OpenMetrics."""
    assert spans() == []
    paidup = await world.server()
    await bought(paidup.customer("ada"), stripe_side)
    accepted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with http.get(f"{paidup.url}/metrics", headers=accepted) as answer:
        assert f'trace_id="{TRACE}"' in await answer.text()
    async with http.get(f"{paidup.url}/metrics") as answer:
        assert TRACE not in await answer.text()
