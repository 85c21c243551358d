"""`paidup explain`: explain an invoice's status, for every kind of payment and reference."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from paidup.db.models import Account, CreditGrant, Invoice, StripeEvent, TimelineEntry
from paidup.domain.decisions import InvoiceStatus
from paidup.operations.backfill import replay
from paidup.operations.explain import explain
from paidup.operations.explain_terminal import render_explanation
from paidup.operations.formatting import format_duration
from paidup.operations.invoice_report import Explanation, InvoiceReport
from paidup.operations.recommendations import event_recommendation
from paidup.runtime.clock import now
from paidup.services import open_services
from tests.conftest import World
from tests.operators.conftest import paid_elsewhere, parked, timeline_written
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import Paidup, settings, status_with
from tests.support.stripe_sandbox import StripeSide, forged_event
from tests.support.waiting import wait_until


def terminal_text(explanation: Explanation) -> str:
    """Return what the terminal shows."""
    console = Console(width=200, record=True, file=StringIO())
    console.print(render_explanation(explanation))
    return console.export_text()


async def explain_one(reference: str) -> InvoiceReport:
    found = await explain(reference)
    assert found.found
    (report,) = found.invoices
    return report


async def test_a_settled_invoice_is_found_by_every_reference(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S36: status, source, the whole timeline with offsets, its events, and that nothing is to be done."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    invoice = purchase["invoice"]
    await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(purchase) as socket:
        await status_with(socket, status="active")
    await timeline_written(paidup, invoice, "settled")

    async def event_handled() -> bool:
        return any(
            event.type == "invoice.paid" and event.outcome for event in (await explain_one(invoice)).events
        )

    async def published() -> bool:
        row = await Invoice.get(id=invoice)
        return row.published_version == row.version

    await wait_until(event_handled)
    await wait_until(published)
    row = await Invoice.get(id=invoice).select_related("account")
    references = [invoice, row.payment_intent, row.subscription, row.account.stripe_customer, "ada"]
    for reference in references:
        assert reference is not None
        report = await explain_one(reference)
        assert report.invoice == invoice
        assert report.details is not None
        assert (report.details.status, report.details.plan, report.details.credits) == ("active", "pro", 2000)
        assert report.details.settled_via == row.settled_via
    steps = [event.event_type for event in report.timeline]
    assert {"created", "socket_opened", "settled", "published", "webhook_received"} <= set(steps)
    assert [event.at for event in report.timeline] == sorted(event.at for event in report.timeline)
    assert all(0 <= event.after_ms < 60_000 for event in report.timeline)
    assert [grant.credits for grant in report.grants] == [2000]
    assert report.pending_steps == []
    assert report.recommendation == "Nothing: 2000 credits were granted, 2000 of them remain."
    shown = terminal_text(await explain("ada"))
    assert "Account ada: balance 2000" in shown
    assert f"via {row.settled_via}" in shown
    assert "To do: Nothing: 2000 credits" in shown


async def test_a_pending_payment_shows_stripes_status_and_the_next_check(
    world: World, stripe_side: StripeSide
) -> None:
    """S36: the payment is not confirmed: Stripe's status, the next check, and nothing to do yet."""
    paidup = await world.server(webhooks=False)
    purchase = await paidup.customer("ada").buy("basic")
    report = await explain_one("ada")
    assert report.pending_steps[0] == "Not verified with Stripe yet, and no webhook was received."
    await paidup.services.verification.verify(purchase["invoice"])
    await timeline_written(paidup, purchase["invoice"], "verification_answered")
    report = await explain_one("ada")
    assert "invoice open, payment requires_payment_method." in report.pending_steps[0]
    assert "next check is in " in report.pending_steps[1]
    assert report.recommendation.startswith("Nothing yet: the customer has not confirmed")
    await Invoice.all().update(next_check_at=now() - timedelta(seconds=1))
    assert "next check is due now" in (await explain_one("ada")).pending_steps[1]
    await Invoice.all().update(next_check_at=now() - timedelta(minutes=5))
    report = await explain_one("ada")
    assert "overdue by 5 min" in report.pending_steps[1]
    assert "paidup work" in report.recommendation


async def test_a_failed_payment_shows_the_reason(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S36: the decline code, the last webhook, and what the customer can do."""
    purchase = await paidup.customer("ada").buy("basic")
    await stripe_side.confirm(purchase["client_secret"], "pm_card_chargeDeclined")

    async def failed() -> bool:
        return await Invoice.exists(id=purchase["invoice"], status=InvoiceStatus.FAILED)

    await wait_until(failed)
    await timeline_written(paidup, purchase["invoice"], "webhook_received")
    report = await explain_one(purchase["invoice"])
    assert report.details is not None
    assert report.details.error is not None
    assert "try another card" in report.recommendation
    assert "Stripe sent " in report.pending_steps[0]
    assert "failed (stage failed)" in terminal_text(await explain("ada"))


ADVICE = {
    InvoiceStatus.REQUIRES_ACTION: "complete 3D Secure",
    InvoiceStatus.PROCESSING: "may take days",
    InvoiceStatus.FAILED: "try another card",
    InvoiceStatus.VOID: "choose a plan again",
    InvoiceStatus.REVERSED: "reversed",
    InvoiceStatus.ACTIVE: "has no grant: run `paidup audit`",
    InvoiceStatus.OPEN: "has not confirmed a payment",
}


async def test_every_status_has_a_recommendation(database: None) -> None:
    """S36: one sentence for each."""
    account = await an_account()
    for status in InvoiceStatus:
        row = await an_invoice(account, status=status)
        assert ADVICE[status] in (await explain_one(row.id)).recommendation


async def test_a_succeeded_payment_of_an_open_invoice_asks_nobody_to_pay_again(database: None) -> None:
    """S23: the PaymentIntent succeeded and the invoice is still open."""
    row = await an_invoice(await an_account())
    detail = {"invoice_status": "open", "payments": ["succeeded"]}
    await TimelineEntry.create(invoice=row.id, at=now(), event_type="verification_answered", detail=detail)
    report = await explain_one(row.id)
    assert "payment succeeded." in report.pending_steps[0]
    assert report.recommendation.startswith("Nothing: the payment succeeded")


async def test_the_newest_invoice_comes_first_and_older_ones_are_counted(database: None) -> None:
    account = await an_account()
    at = now()
    for number in range(22):
        await an_invoice(account, id=f"in_of_{number}", created_at=at - timedelta(days=number))
    found = await explain(account.external_id)
    assert [report.invoice for report in found.invoices[:2]] == ["in_of_0", "in_of_1"]
    assert (len(found.invoices), found.older_invoices) == (20, 2)
    assert "2 older invoices" in terminal_text(found)


async def test_a_customer_without_a_payment_is_shown(database: None) -> None:
    await Account.create(external_id="ada")
    assert "has not chosen a plan yet" in terminal_text(await explain("ada"))


async def test_an_unknown_reference_is_not_found(database: None) -> None:
    for reference in ("in_nothing", "nobody", "", "%", "in\\_", "cus_%"):
        found = await explain(reference)
        assert not found.found


async def test_an_unknown_customers_event_is_explained_and_settles_after_linking(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S15: it is found by invoice and by customer, with a recommendation; a replay grants the credits."""
    customer = await stripe_side.customer()
    invoice = await paid_elsewhere(stripe_side, customer)
    rows = await parked(paidup, "unknown_customer")
    await timeline_written(paidup, invoice, "webhook_received")
    report = await explain_one(invoice)
    assert report.details is None
    assert {event.id for event in report.events} >= {row.id for row in rows}
    assert f"unknown_customer ({customer})" in " ".join(report.pending_steps)
    assert report.recommendation.startswith(f"Link {customer} to an account")
    assert "paidup replay evt_" in report.recommendation
    by_customer = await explain(customer)
    assert {event.invoice for event in by_customer.other_events if event.error} == {invoice}
    assert f"Link {customer}" in terminal_text(by_customer)
    await Account.create(external_id="eve", stripe_customer=customer)
    done = await replay(paidup.services.gateway, paidup.services.events, rows[0].id)
    assert (done.outcome, done.source, done.done) == ("settled", "here", True)
    report = await explain_one("eve")
    assert report.details is not None
    assert report.details.status == "active"
    assert await CreditGrant.all().count() == 1


async def test_an_unknown_prices_event_is_explained_and_settles_after_configuring_it(
    world: World, stripe_side: StripeSide, gold_plans: Path
) -> None:
    """S15: once the plans file has the price, a replay grants the credits."""
    price = await stripe_side.api(
        "POST",
        "prices",
        **{
            "currency": "usd",
            "unit_amount": 9900,
            "recurring[interval]": "month",
            "lookup_key": "gold_monthly",
            "product_data[name]": "Gold",
            "product_data[metadata][paidup_plan]": "gold",
        },
    )
    customer = await stripe_side.customer()
    async with open_services(settings(**world.given())) as services:
        await Account.create(external_id="eve", stripe_customer=customer)
        invoice = await paid_elsewhere(stripe_side, customer, "gold_monthly")
        event = await wait_until(lambda: stripe_side.event("invoice.paid"))
        done = await replay(services.gateway, services.events, event["id"])
        assert (done.outcome, done.source, done.done) == ("unknown_price", "stripe", False)
    async with open_services(settings(**world.given(plans_file=gold_plans))) as services:
        for reference in (invoice, customer):
            (unhandled,) = [event for event in (await explain(reference)).other_events if event.error]
            assert (unhandled.id, unhandled.invoice) == (event["id"], invoice)
            advice = f"Add the lookup key of {price['id']} to the plans file"
            assert event_recommendation(unhandled).startswith(advice)
        done = await replay(services.gateway, services.events, event["id"])
        assert (done.outcome, done.source, done.done) == ("settled", "here", True)
        assert (await Account.get(external_id="eve")).balance == 9000
        done = await replay(services.gateway, services.events, event["id"])
        assert (done.outcome, done.done) == ("already_settled", True)
        assert (await Account.get(external_id="eve")).balance == 9000


async def test_an_event_of_an_unknown_type_is_answered_200_and_stored(paidup: Paidup) -> None:
    """S15: it is stored with that outcome, found by its invoice, and needs no action."""
    status, answered = await paidup.webhook(
        forged_event("invoice.sent", {"id": "in_sent", "object": "invoice"})
    )
    assert (status, answered["outcome"]) == (200, "unhandled_type")
    (row,) = await StripeEvent.filter(type="invoice.sent")
    assert row.outcome == "unhandled_type"
    assert not row.error
    assert row.handled_at is not None
    found = await explain("in_sent")
    assert [event.id for event in found.other_events] == [row.id]
    assert "with the outcome unhandled_type" in terminal_text(found)
    assert "Nothing: no event of this type changes a payment." in terminal_text(found)


async def test_an_unexpected_payload_does_not_stop_the_explanation(database: None) -> None:
    """S15: the command answers whatever was stored."""
    bodies = ["{}", "nonsense", '{"id":"evt_3","type":"x","livemode":false,"data":{"object":{"id":"in_1"}}}']
    for number, body in enumerate(bodies):
        at = now()
        await StripeEvent.create(
            id=f"evt_{number}",
            type="invoice.paid",
            payload=f'{body} "in_1"',
            received_at=at,
            attempts=1,
            error="parked: unknown_price",
        )
    found = await explain("in_1")
    assert len(found.other_events) == 3
    assert "was given up after 1 tries" in terminal_text(found)


async def test_markup_in_text_from_customers_is_not_interpreted(database: None) -> None:
    account = await Account.create(external_id="[red]ada[/nonsense]", stripe_customer="cus_9")
    row = await an_invoice(account)
    await TimelineEntry.create(
        invoice=row.id, at=now(), event_type="notified", detail={"reason": "[/bold] [link=x]"}
    )
    shown = terminal_text(await explain(account.external_id))
    assert "[red]ada[/nonsense]" in shown
    assert "[/bold] [link=x]" in shown


@pytest.mark.parametrize(
    ("seconds", "formatted"),
    [
        (0.48, "480 ms"),
        (12, "12 s"),
        (-12, "12 s"),
        (119, "119 s"),
        (300, "5 min"),
        (7200, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_format_duration(seconds: float, formatted: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == formatted
