"""Other products on the same Stripe account, and connected accounts: handled, silent, never credited."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import EventSource, Invoice, StripeEvent
from paidup.errors import Conflict, InvalidInput, NotFound, StripeRefused
from paidup.operations.backfill import backfill, replay
from paidup.operations.dismissal import dismiss_events
from paidup.reconciliation.alarms import take_snapshot
from paidup.runtime.clock import now
from paidup.stripe_api.schemas import ACCOUNT_METADATA_KEY
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.stripe_sandbox import forged_event
from tests.support.subscription_lifecycle import Life, a_life
from tests.support.unhandled_events import wait_for_event

NAMED = f"metadata[{ACCOUNT_METADATA_KEY}]"


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def a_price(life: Life, **form: Any) -> str:
    """A monthly price of a product that the plans file does not have."""
    monthly = {"currency": "usd", "unit_amount": 500, "recurring[interval]": "month"}
    made = await life.stripe.api("POST", "prices", **monthly, **({"product_data[name]": "Support"} | form))
    return str(made["id"])


async def paid(life: Life, customer: str, price: str, **form: str) -> Any:
    """A paid subscription to this price."""
    made = await life.stripe.subscribe(customer, **{"items[0][price]": price, **form})
    await life.stripe.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    await life.calm()
    return made


async def outcomes() -> set[str | None]:
    """The outcomes of the events of paid invoices."""
    rows = await StripeEvent.filter(type__in=["invoice.paid", "invoice.payment_succeeded"])
    return {row.outcome or row.error for row in rows}


async def give_up_unhandled() -> None:
    """As after twelve tries."""
    await StripeEvent.filter(handled_at=None).update(next_attempt_at=None, attempts=12)


async def alarms() -> list[str]:
    return [alarm.name for alarm in (await take_snapshot()).alarms]


async def test_an_invoice_of_another_product_is_handled_and_silent(life: Life) -> None:
    """S52: of a customer who has a plan here, and of a stranger; counted, and never an alarm."""
    await life.buy("pro")
    await life.calm()
    await StripeEvent.all().delete()
    price = await a_price(life)
    for customer in (str((await life.row()).stripe_customer), await life.stripe.customer()):
        await paid(life, customer, price)
    assert await outcomes() == {"not_ours"}
    assert not await StripeEvent.exists(handled_at=None)
    assert await alarms() == []
    assert await Invoice.all().count() == 1
    counted = life.paidup.services.metrics.settlements.labels("webhook", "not_ours")
    assert counted._value.get() >= 2
    counts: Counter[str] = Counter()
    services = life.paidup.services
    await backfill(services.gateway, services.reconciler, now() - timedelta(days=1), counts)
    assert counts == {"not_ours": 2, "already_settled": 1}
    assert await life.entries() == [("grant", 2000)]
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("tie", ["product", "account", "subscription"])
async def test_an_unknown_price_of_ours_alarms(life: Life, tie: str) -> None:
    """S52: by its product's metadata, by the metadata of a known account, by a subscription of ours."""
    await life.buy("pro")
    await life.calm()
    customer = str((await life.row()).stripe_customer)
    if tie == "product":
        price = await a_price(life, **{"product_data[metadata][paidup_plan]": "removed"})
        await paid(life, customer, price)
    elif tie == "account":
        await paid(life, customer, await a_price(life), **{NAMED: "ada"})
    else:
        (ours,) = (await life.stripe.api("GET", f"subscriptions?customer={customer}"))["data"]
        item = {"items[0][id]": ours["items"]["data"][0]["id"], "items[0][price]": await a_price(life)}
        await life.stripe.api("POST", f"subscriptions/{ours['id']}", proration_behavior="none", **item)
        await life.stripe.control(f"subscriptions/{ours['id']}/renew")
        drafts = (await life.stripe.api("GET", f"invoices?subscription={ours['id']}&status=draft"))["data"]
        for draft in drafts:
            await life.stripe.api("POST", f"invoices/{draft['id']}/finalize")
            await life.stripe.api("POST", f"invoices/{draft['id']}/pay")
        await life.calm()
    await wait_for_event(life.paidup, error="parked: unknown_price")
    await give_up_unhandled()
    assert "events_given_up" in await alarms()
    assert await life.balance() == 2000


async def test_metadata_of_an_account_that_is_unknown_here_makes_no_alarm(life: Life) -> None:
    """S52: another installation on the same Stripe account sells what is unknown here."""
    await paid(life, await life.stripe.customer(), await a_price(life), **{NAMED: "somebody-elsewhere"})
    assert await outcomes() == {"not_ours"}
    assert await alarms() == []


async def test_events_of_a_connected_account_are_set_apart(life: Life) -> None:
    """S52: a connected account has our price id and our customer's id, and pays: no credit, no alarm."""
    await life.buy("pro")
    await life.calm()
    customer = str((await life.row()).stripe_customer)
    await life.stripe.conditions(webhook_account="acct_connected")
    await paid(life, customer, await a_price(life, **{"product_data[metadata][paidup_plan]": "pro"}))
    assert "other_account" in await outcomes()
    assert not await StripeEvent.exists(handled_at=None)
    assert await life.balance() == 2000
    dispute = {"id": "du_theirs", "object": "dispute", "amount": 1, "status": "lost", "charge": "ch_theirs"}
    body = forged_event("charge.dispute.closed", dispute, account="acct_connected")
    status, answer = await life.paidup.webhook(body)
    assert (status, answer["outcome"]) == (200, "other_account")
    assert await alarms() == []
    assert await life.entries() == [("grant", 2000)]


async def test_a_platform_sells_for_one_connected_account(world: World) -> None:
    """S52: with STRIPE_ACCOUNT each call names the account, and only its events count."""
    await world.stripe_side.conditions(webhook_account="acct_connected")
    life = await a_life(world, stripe_account="acct_connected")
    await life.buy("pro")
    await life.calm()
    assert await outcomes() <= {"settled", "already_settled"}
    invoice = (await Invoice.get()).id
    for account in (None, "acct_other"):
        named = {"account": account} if account else {}
        body = forged_event("invoice.voided", {"id": invoice, "object": "invoice"}, **named)
        status, answer = await life.paidup.webhook(body)
        assert (status, answer["outcome"]) == (200, "other_account")
    assert await life.entries() == [("grant", 2000)]
    gateway = life.paidup.services.gateway
    await world.stripe_side.conditions(webhook_account="acct_revoked")
    with pytest.raises(StripeRefused, match="code account_invalid"):
        await gateway.read_invoice(invoice)


async def test_a_dismissed_event_ends_the_alarm_and_keeps_who_and_why(life: Life) -> None:
    """S15: nothing is credited; dismissed again it stays as it is; a replay can still handle it."""
    price = await a_price(life, **{"product_data[metadata][paidup_plan]": "removed"})
    await paid(life, await life.stripe.customer(), price)
    await wait_for_event(life.paidup, error="parked: unknown_price")
    await give_up_unhandled()
    assert await alarms() == ["events_given_up"]
    events = [row.id for row in await StripeEvent.filter(handled_at=None)]
    for _ in range(2):
        dismissed = await dismiss_events(events, "mia", "sold by hand before the launch")
        assert [each.event for each in dismissed] == events
    await dismiss_events(events, "tom", "another reason")
    row = await StripeEvent.get(id=events[0])
    assert (row.outcome, row.dismissed_by) == ("dismissed", "mia")
    assert (row.dismissed_because, row.error) == ("sold by hand before the launch", "parked: unknown_price")
    assert row.handled_at is not None
    assert await alarms() == []
    services = life.paidup.services
    assert (await replay(services.gateway, services.events, events[0])).outcome == "unknown_price"


async def test_what_cannot_be_dismissed_is_refused_whole(life: Life) -> None:
    """An event that was handled, one that is not stored, and one without a reason."""
    common: dict[str, Any] = {"type": "invoice.paid", "payload": "", "received_at": now()}
    await StripeEvent.create(id="evt_done", handled_at=now(), outcome="settled", **common)
    await StripeEvent.create(id="evt_open", source=EventSource.LIST, **common)
    for events, reason, error in (
        (["evt_open", "evt_done"], "why", Conflict),
        (["evt_open", "evt_none"], "why", NotFound),
        (["evt_open"], " ", InvalidInput),
        (["evt_open"], "a\0b", InvalidInput),
    ):
        with pytest.raises(error):
            await dismiss_events(events, "mia", reason)
        assert (await StripeEvent.get(id="evt_open")).handled_at is None
