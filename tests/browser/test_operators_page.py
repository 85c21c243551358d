"""The operators' pages in Chromium: they fit desktop and phone, in light and dark, the remedy first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Browser, Page
from starlette.requests import Request
from starlette.responses import Response

from paidup.db.outbound_models import DeliveryState
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.stages import Stage
from paidup.operations.event_deliveries import DeliveryDetails
from paidup.operations.invoice_report import Explanation, InvoiceReport, StoredEvent, TimelineEvent
from paidup.operations.overview import Overview, PendingInvoice, SettledInvoice
from paidup.reconciliation.alarms import Alarm
from paidup.runtime.clock import now
from paidup.web.operators.rendering import render
from paidup.web.operators.reports import shown_invoices, shown_sessions
from tests.browser.looks import expect_no_violations, expect_to_fit, luminance

pytestmark = pytest.mark.asyncio(loop_scope="session")

INVOICE = "in_1SXbQpLkdIwHu7ixQqEvT2Zk"
EVENT = "evt_1SXbQpLkdIwHu7ix0kqfSgWc"
ACCOUNT = "x" * 120
"""Longer than any column."""
ERROR = f"StripeUnavailable: https://api.stripe.com/v1/invoices/{INVOICE}?expand[]=payments: timed out"


def shown(response: Response) -> str:
    return bytes(response.body).decode()


def delivery(at: datetime) -> DeliveryDetails:
    """One that was given up, to an endpoint whose name is longer than any column."""
    return DeliveryDetails(
        id=1,
        event="msg_5d7a1f3b9c2e4f60817263544a5b6c7d",
        type="payment.action_required",
        account=ACCOUNT,
        invoice=INVOICE,
        endpoint=f"https://app.example.com/{'x' * 120}",
        state=DeliveryState.DEAD,
        attempts=10,
        created_at=at,
        last_attempt_at=at,
        next_attempt_at=None,
        delivered_at=None,
        replayed_at=None,
        status_code=500,
        error=ERROR,
        duration_ms=9,
    )


def pages() -> Iterator[str]:
    """The overview, and what is known of a reference."""
    at = now()
    ago = at - timedelta(minutes=10)
    request = Request({"type": "http", "method": "GET", "path": "/operators", "root_path": "", "headers": []})
    failed = [
        StoredEvent(EVENT, "invoice.payment_succeeded", ago, None, 12, None, None, ERROR, INVOICE),
        StoredEvent("evt_2", "invoice.paid", ago, None, 2, at, "unknown_customer", None, None, "cus_1"),
    ]
    unhandled = [StoredEvent("evt_3", "invoice.sent", ago, ago, 1, None, "unhandled_type", None)]
    stage, status = Stage.FAILED, InvoiceStatus.FAILED
    pending = PendingInvoice(INVOICE, ACCOUNT, "pro", status, stage, ago, ago, "verification_answered", ago)
    settled = SettledInvoice(INVOICE, ACCOUNT, "pro", 2000, "reconciliation", at, ago)
    alarms = [Alarm("events_given_up", "1 event was given up: fix the cause and run `paidup replay`.")]
    overview = Overview(at, alarms, [pending], 1, failed, 2, unhandled, [settled])
    yield shown(render(request, "overview.html", overview=overview, unhandled_for=timedelta(days=7)))
    timeline = [TimelineEvent(ago, 61_234, "verification_failed", {"error": ERROR})]
    remedy = f"Run `paidup replay {EVENT}`."
    report = InvoiceReport(INVOICE, None, [], timeline, failed, [ERROR], remedy, [delivery(ago)])
    explanation = Explanation(ACCOUNT, at, ACCOUNT, -120, [report], 2, failed)
    view: dict[str, Any] = {"invoices": shown_invoices(explanation), "sessions": shown_sessions(explanation)}
    yield shown(render(request, "explanation.html", explanation=explanation, **view))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
async def test_the_operators_pages_fit_and_can_be_read(browser: Browser, width: int, scheme: str) -> None:
    """Nothing scrolls sideways, also inside; dark is dark; axe-core finds nothing."""
    looks = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    context = await browser.new_context(**looks)  # type: ignore[arg-type]
    page = await context.new_page()
    for html in pages():
        await page.set_content(html)
        await expect_to_fit(page, width)
        await expect_nothing_cut(page)
        await expect_no_violations(page)
        body = "getComputedStyle(document.body)"
        ink, paper = [await page.evaluate(f"{body}.{name}") for name in ("color", "backgroundColor")]
        assert (luminance(paper) < luminance(ink)) == (scheme == "dark")
    await context.close()


async def expect_nothing_cut(page: Page) -> None:
    """No box is narrower than what is in it."""
    wider = (
        "[...document.querySelectorAll('main *')].filter((node) => node.scrollWidth > node.clientWidth + 1)"
        ".filter((node) => !node.closest('.unseen, thead'))"
    )
    block = "getComputedStyle(node).display !== 'inline'"
    found = await page.evaluate(
        f"{wider}.filter((node) => {block}).map((node) => node.outerHTML.slice(0, 80))"
    )
    assert found == []


async def test_the_remedy_comes_before_the_reason_and_the_facts(browser: Browser) -> None:
    page = await browser.new_page()
    for html in pages():
        await page.set_content(html)
        card = await page.locator(".card").first.inner_text()
        assert card.index("paidup replay") < card.index("Reason: StripeUnavailable") < card.index("tries")
    await page.close()
