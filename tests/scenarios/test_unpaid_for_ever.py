"""Invoices that nobody will ever pay: voided, left alone, and no longer shown as being activated."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import Invoice
from paidup.domain.backoff import DAY_S, MAX_CHECKED_AGE_S
from paidup.domain.decisions import UNCOLLECTIBLE, InvoiceStatus
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import Life, a_life, pay_on_with, subscription_of
from tests.support.waiting import wait_until

READS = "GET /v1/invoices/{id}"
VOIDS = "POST /v1/invoices/{id}/void"
DECLINES = "pm_card_chargeCustomerFail"


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def top_up(life: Life) -> Any:
    """A top-up that is not paid yet."""
    status, purchase = await life.post("/api/top-ups", plan="extra", quantity=1)
    assert status == 201, purchase
    return purchase


async def pass_hours(life: Life, hours: float) -> None:
    """Time passes at Stripe and here, and each invoice is due for its next check."""
    await life.stripe.control("clock", {"advance_seconds": round(hours * 3600)})
    life.clock.ahead += timedelta(hours=hours)
    for row in await Invoice.exclude(next_check_at=None):
        row.created_at -= timedelta(hours=hours)
        row.changed_at -= timedelta(hours=hours)
        row.next_check_at = now() - timedelta(seconds=1)
        row.lease_expires_at = None
        await row.save()


async def check(life: Life) -> None:
    await life.paidup.services.reconciler.due.invoices()


async def at_stripe(life: Life, invoice: str) -> str:
    return str((await life.stripe.api("GET", f"invoices/{invoice}"))["status"])


async def test_a_top_up_that_is_never_paid_is_voided_and_then_costs_nothing(life: Life) -> None:
    """S55: after 23 hours, once; it is not being activated any more, and another one may be bought."""
    invoice = (await top_up(life))["invoice"]
    assert (await life.account())["activating"]["invoice"] == invoice
    await pass_hours(life, 22)
    await check(life)
    assert await at_stripe(life, invoice) == "open"
    await pass_hours(life, 2)
    await check(life)
    assert (await at_stripe(life, invoice), (await life.status(invoice))["status"]) == ("void", "void")
    assert (await life.account())["activating"] is None
    row = await Invoice.get(id=invoice)
    assert row.next_check_at is None
    reads = await life.stripe.calls(READS)
    await pass_hours(life, 1000)
    await check(life)
    assert (await life.stripe.calls(READS), await life.stripe.calls(VOIDS)) == (reads, 1)
    again = await top_up(life)
    assert again["invoice"] != invoice
    await life.pay(again)
    assert await life.balance() > 0
    await assert_books_balance(grants=1)


async def test_a_top_up_whose_payment_is_processing_is_never_voided(life: Life) -> None:
    """S55, S44: a bank debit takes days: it stays, is shown, and is credited when it succeeds."""
    await life.stripe.conditions(processing_ms=600_000)
    purchase = await top_up(life)
    await life.stripe.confirm(purchase["client_secret"])
    # The row does not know of it yet: what Stripe says just before counts.
    await Invoice.filter(id=purchase["invoice"]).update(status=InvoiceStatus.OPEN)
    await pass_hours(life, 30)
    await check(life)
    assert await at_stripe(life, purchase["invoice"]) == "open"
    assert await life.stripe.calls(VOIDS) == 0
    assert (await life.account())["activating"]["status"]["status"] == "processing"


async def test_a_top_up_paid_at_the_moment_of_voiding_is_credited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S55: Stripe refuses to void what is paid: it is read again, and settled."""
    life = await a_life(world, webhooks=False)
    purchase = await top_up(life)
    gateway = life.paidup.services.gateway
    void = gateway.void_invoice

    async def paid_first(*arguments: Any) -> Any:
        await life.stripe.confirm(purchase["client_secret"])
        return await void(*arguments)

    monkeypatch.setattr(gateway, "void_invoice", paid_first)
    await pass_hours(life, 24)
    await check(life)
    assert await at_stripe(life, purchase["invoice"]) == "paid"
    assert (await life.status(purchase["invoice"]))["status"] == "active"
    await assert_books_balance(grants=1)


async def test_an_invoice_of_the_saas_itself_is_not_voided_and_is_read_less_and_less(life: Life) -> None:
    """S55: it is the SaaS's to void. Read daily after a day, and never after two months."""
    made = (await top_up(life))["invoice"]
    await life.stripe.api("POST", f"invoices/{made}", **{"metadata[paidup_purchase]": ""})
    daily, calls = timedelta(seconds=DAY_S), await life.stripe.calls(READS)
    await pass_hours(life, 25)
    for _ in range(3):
        await check(life)
        due = (await Invoice.get(id=made)).next_check_at
        assert due is not None
        assert due - now() > daily - timedelta(minutes=5)
        await pass_hours(life, 24)
    assert await life.stripe.calls(READS) - calls == 3
    await pass_hours(life, MAX_CHECKED_AGE_S / 3600)
    await check(life)
    assert (await Invoice.get(id=made)).next_check_at is None
    assert (await at_stripe(life, made), await life.stripe.calls(VOIDS)) == ("open", 0)
    assert (await life.account())["activating"] is None


async def unpaid_renewal(life: Life) -> Invoice:
    """The row of a renewal that was declined."""
    await life.buy("pro")
    await pay_on_with(life, DECLINES)
    await life.pass_days(32)
    return await Invoice.get(billing_reason="subscription_cycle")


async def test_an_uncollectible_renewal_ends_the_wait_until_it_is_paid_after_all(life: Life) -> None:
    """S55: no reads, nothing that is being activated; a payment weeks later is credited once."""
    renewal = await unpaid_renewal(life)
    assert (await life.account())["activating"]["invoice"] == renewal.id
    await life.stripe.api("POST", f"invoices/{renewal.id}/mark_uncollectible")
    await life.calm()
    renewal = await Invoice.get(id=renewal.id)
    assert (renewal.status, renewal.next_check_at) == (InvoiceStatus.FAILED, None)
    assert renewal.error["code"] == UNCOLLECTIBLE.code
    assert (await life.account())["activating"] is None
    await life.stripe.api("POST", f"invoices/{renewal.id}/pay", payment_method="pm_card_visa")
    await wait_until(lambda: Invoice.exists(id=renewal.id, status=InvoiceStatus.ACTIVE))
    assert await life.entries() == [("grant", 2000), ("grant", 2000)]
    await assert_books_balance(grants=2)


async def test_an_uncollectible_invoice_is_known_without_its_event(life: Life) -> None:
    """S55: also where the read shows a declined payment beside it."""
    renewal = await unpaid_renewal(life)
    await life.stripe.conditions(webhook_drop=1.0)
    await life.stripe.api("POST", f"invoices/{renewal.id}/mark_uncollectible")
    await pass_hours(life, 1)
    await check(life)
    assert (await Invoice.get(id=renewal.id)).next_check_at is None
    assert (await life.account())["activating"] is None


async def test_an_unpaid_renewal_is_left_alone_once_its_subscription_is_over(life: Life) -> None:
    """S55: verified one last time; Stripe tries no other payment."""
    renewal = await unpaid_renewal(life)
    await life.stripe.api("DELETE", f"subscriptions/{(await subscription_of(life))['id']}")
    await life.calm()
    await life.work()
    await pass_hours(life, 1)
    await check(life)
    assert (await Invoice.get(id=renewal.id)).next_check_at is None
    assert (await life.account())["activating"] is None
