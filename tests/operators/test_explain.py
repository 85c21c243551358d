"""`paidup explain`: why is he not active? Every kind of payment, by every kind of reference."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from paidup.clock import now
from paidup.db.models import Account, CreditGrant, Invoice, StripeEvent, TimelineEntry
from paidup.domain.decisions import InvoiceStatus
from paidup.operations.backfill import replay
from paidup.operations.explain import Explanation, InvoiceReport, event_recommendation, explain, span
from paidup.operations.explain_terminal import rendered
from paidup.services import open_services
from tests.conftest import World
from tests.operators.conftest import paid_elsewhere, parked, timeline_written
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import Paidup, settings, status_with
from tests.support.stripe_sandbox import StripeSide, forged_event
from tests.support.waiting import wait_until


def words(explanation: Explanation) -> str:
    """What a person reads in the terminal."""
    console = Console(width=200, record=True, file=StringIO())
    console.print(rendered(explanation))
    return console.export_text()


async def only_story(reference: str) -> InvoiceReport:
    found = await explain(reference)
    assert found.found
    (story,) = found.stories
    return story


async def test_a_credited_payment_is_told_by_every_reference(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S36: status, who won, the whole timeline with offsets, its events, and that nothing is to be done."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    invoice = purchase["invoice"]
    await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(purchase) as socket:
        await status_with(socket, status="active")
    await timeline_written(paidup, invoice, "settled")

    async def its_event() -> bool:
        return any(
            event.type == "invoice.paid" and event.outcome for event in (await only_story(invoice)).events
        )

    async def its_publication() -> bool:
        row = await Invoice.get(id=invoice)
        return row.published_version == row.version

    await wait_until(its_event)
    await wait_until(its_publication)
    row = await Invoice.get(id=invoice).select_related("account")
    references = [invoice, row.payment_intent, row.subscription, row.account.stripe_customer, "ada"]
    for reference in references:
        assert reference is not None
        story = await only_story(reference)
        assert story.invoice == invoice
        assert story.facts is not None
        assert (story.facts.status, story.facts.plan, story.facts.credits) == ("active", "pro", 2000)
        assert story.facts.settled_via == row.settled_via
    steps = [step.what for step in story.steps]
    assert {"created", "socket_opened", "settled", "published", "webhook_received"} <= set(steps)
    assert [step.at for step in story.steps] == sorted(step.at for step in story.steps)
    assert all(0 <= step.after_ms < 60_000 for step in story.steps)
    assert [grant.credits for grant in story.grants] == [2000]
    assert story.awaited == []
    assert story.recommendation == "Nothing: 2000 credits were granted, 2000 of them are left."
    shown = words(await explain("ada"))
    assert "Account ada: balance 2000" in shown
    assert f"via {row.settled_via}" in shown
    assert "To do: Nothing: 2000 credits" in shown


async def test_a_payment_that_waits_says_what_stripe_said_and_when_it_is_asked_again(
    world: World, stripe_side: StripeSide
) -> None:
    """S36: nothing was confirmed: Stripe's own words, the next check, and that there is nothing to do yet."""
    paidup = await world.server(webhooks=False)
    purchase = await paidup.customer("ada").buy("basic")
    story = await only_story("ada")
    assert story.awaited[0] == "Stripe has not been asked yet, and has sent nothing."
    await paidup.services.verification.verify(purchase["invoice"])
    await timeline_written(paidup, purchase["invoice"], "verification_answered")
    story = await only_story("ada")
    assert "the invoice is open, payment requires_payment_method." in story.awaited[0]
    assert "next check is in " in story.awaited[1]
    assert story.recommendation.startswith("Nothing yet: no payment has arrived")
    await Invoice.all().update(next_check_at=now() - timedelta(minutes=5))
    story = await only_story("ada")
    assert "overdue by 5 min" in story.awaited[1]
    assert "paidup work" in story.recommendation


async def test_a_payment_that_failed_says_why(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S36: the decline's code and words, the last webhook, and what the customer can do."""
    purchase = await paidup.customer("ada").buy("basic")
    await stripe_side.confirm(purchase["client_secret"], "pm_card_chargeDeclined")

    async def failed() -> bool:
        return await Invoice.exists(id=purchase["invoice"], status=InvoiceStatus.FAILED)

    await wait_until(failed)
    await timeline_written(paidup, purchase["invoice"], "webhook_received")
    story = await only_story(purchase["invoice"])
    assert story.facts is not None
    assert story.facts.error is not None
    assert "try another card" in story.recommendation
    assert "Stripe sent " in story.awaited[0]
    assert "failed (stage failed)" in words(await explain("ada"))


ADVICE = {
    InvoiceStatus.REQUIRES_ACTION: "finish his bank's check",
    InvoiceStatus.PROCESSING: "may take days",
    InvoiceStatus.FAILED: "try another card",
    InvoiceStatus.VOID: "chooses a plan again",
    InvoiceStatus.REVERSED: "taken back",
    InvoiceStatus.ACTIVE: "has no grant: run `paidup audit`",
    InvoiceStatus.OPEN: "no payment has arrived",
}


async def test_every_status_says_what_to_do(database: None) -> None:
    """S36: one clear sentence for each."""
    account = await an_account()
    for status in InvoiceStatus:
        row = await an_invoice(account, status=status)
        assert ADVICE[status] in (await only_story(row.id)).recommendation


async def test_money_that_is_there_before_the_invoice_is_paid_is_said_so(database: None) -> None:
    """S23: the intent has succeeded and the invoice is still open: nobody is sent to pay again."""
    row = await an_invoice(await an_account())
    detail = {"invoice_status": "open", "payments": ["succeeded"]}
    await TimelineEntry.create(invoice=row.id, at=now(), event_type="verification_answered", detail=detail)
    story = await only_story(row.id)
    assert "payment succeeded." in story.awaited[0]
    assert story.recommendation.startswith("Nothing: Stripe has the money")


async def test_the_newest_invoice_comes_first_and_older_ones_are_counted(database: None) -> None:
    account = await an_account()
    at = now()
    for number in range(22):
        await an_invoice(account, id=f"in_of_{number}", created_at=at - timedelta(days=number))
    found = await explain(account.external_id)
    assert [story.invoice for story in found.stories[:2]] == ["in_of_0", "in_of_1"]
    assert (len(found.stories), found.older) == (20, 2)
    assert "2 older invoices" in words(found)


async def test_what_nobody_knows_is_not_found(database: None) -> None:
    for reference in ("in_nothing", "nobody", "", "%", "in\\_", "cus_%"):
        found = await explain(reference)
        assert not found.found


async def test_an_event_of_an_unknown_customer_is_kept_explained_and_settled_when_he_is_known(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S15: an unknown customer: visible by invoice and by customer, with what to do; credited by a replay."""
    customer = await stripe_side.customer()
    invoice = await paid_elsewhere(stripe_side, customer)
    rows = await parked("unknown_customer")
    await timeline_written(paidup, invoice, "webhook_received")
    story = await only_story(invoice)
    assert story.facts is None
    assert {event.id for event in story.events} >= {row.id for row in rows}
    assert f"unknown_customer ({customer})" in " ".join(story.awaited)
    assert story.recommendation.startswith(f"Tie {customer} to an account")
    assert "paidup replay evt_" in story.recommendation
    by_customer = await explain(customer)
    assert {event.invoice for event in by_customer.unplaced if event.error} == {invoice}
    assert f"Tie {customer}" in words(by_customer)
    await Account.create(external_id="eve", stripe_customer=customer)
    done = await replay(paidup.services.gateway, paidup.services.events, rows[0].id)
    assert (done.outcome, done.source, done.done) == ("settled", "here", True)
    story = await only_story("eve")
    assert story.facts is not None
    assert story.facts.status == "active"
    assert await CreditGrant.all().count() == 1


async def test_an_event_of_an_unknown_price_is_kept_explained_and_settled_when_it_is_known(
    world: World, stripe_side: StripeSide, gold_plans: Path
) -> None:
    """S15: a price that the plans file does not name: kept; named there, and replayed, it credits."""
    price = await stripe_side.api(
        "POST",
        "prices",
        **{
            "currency": "usd",
            "unit_amount": 9900,
            "recurring[interval]": "month",
            "lookup_key": "gold_monthly",
            "product_data[name]": "Gold",
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
            (unplaced,) = [event for event in (await explain(reference)).unplaced if event.error]
            assert (unplaced.id, unplaced.invoice) == (event["id"], invoice)
            advice = f"Name the lookup key of {price['id']} in the plans file"
            assert event_recommendation(unplaced).startswith(advice)
        done = await replay(services.gateway, services.events, event["id"])
        assert (done.outcome, done.source, done.done) == ("settled", "here", True)
        assert (await Account.get(external_id="eve")).balance == 9000
        done = await replay(services.gateway, services.events, event["id"])
        assert (done.outcome, done.done) == ("already_settled", True)
        assert (await Account.get(external_id="eve")).balance == 9000


async def test_an_event_of_an_unknown_type_is_answered_200_and_kept(paidup: Paidup) -> None:
    """S15: nobody handles it; it is stored with that outcome, found by what it is about, and wants nobody."""
    status, answered = await paidup.webhook(
        forged_event("invoice.sent", {"id": "in_sent", "object": "invoice"})
    )
    assert (status, answered["outcome"]) == (200, "unhandled_type")
    (row,) = await StripeEvent.filter(type="invoice.sent")
    assert row.outcome == "unhandled_type"
    assert not row.error
    assert row.handled_at is not None
    found = await explain("in_sent")
    assert [event.id for event in found.unplaced] == [row.id]
    assert "with the outcome unhandled_type" in words(found)
    assert "Nothing: no event of this type changes a payment." in words(found)


async def test_a_payload_that_is_no_object_of_ours_does_not_stop_the_explanation(database: None) -> None:
    """S15: whatever was stored, the command answers."""
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
    assert len(found.unplaced) == 3
    assert "was given up after 1 tries" in words(found)


async def test_markup_in_what_customers_choose_is_shown_as_it_is(database: None) -> None:
    account = await Account.create(external_id="[red]ada[/nonsense]", stripe_customer="cus_9")
    row = await an_invoice(account)
    await TimelineEntry.create(
        invoice=row.id, at=now(), event_type="notified", detail={"reason": "[/bold] [link=x]"}
    )
    shown = words(await explain(account.external_id))
    assert "[red]ada[/nonsense]" in shown
    assert "[/bold] [link=x]" in shown


@pytest.mark.parametrize(
    ("seconds", "said"),
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
def test_a_length_of_time_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert span(timedelta(seconds=seconds)) == said
