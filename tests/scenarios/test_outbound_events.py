"""Outbound events: each business fact writes exactly its own, in its transaction; repetitions write none."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tortoise.exceptions import IntegrityError

from paidup.credits import ledger
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import Account, Invoice, Subscription
from paidup.db.outbound_models import OutboundEvent
from paidup.domain.payment_facts import Source
from tests.conftest import World
from tests.support.checkout_shop import EXTRA, CheckoutShop
from tests.support.factories import an_account, an_invoice, granted
from tests.support.subscription_lifecycle import Life, a_life, pay_on_with


class Told:
    """The events that were written since the last call."""

    def __init__(self) -> None:
        self.last = 0

    async def rows(self) -> list[OutboundEvent]:
        found = await OutboundEvent.filter(id__gt=self.last).order_by("id")
        self.last = found[-1].id if found else self.last
        return found

    async def types(self) -> list[str]:
        return [row.type for row in await self.rows()]


async def redeliver(life: Life) -> None:
    """Every event of Stripe's once more, as a new event that says the same, oldest first."""
    for shown in reversed((await life.stripe.look("events?limit=200"))["events"]):
        body = {name: value for name, value in shown.items() if name != "deliveries"}
        status, _ = await life.paidup.webhook(json.dumps(body | {"id": f"{shown['id']}again"}).encode())
        assert status == 200
    await life.calm()
    await life.work()


async def test_each_fact_of_a_subscriptions_life_is_told_once(world: World) -> None:
    """Purchased, declined at its renewal, paid, changed, canceled and ended; and each webhook twice."""
    life, told = await a_life(world), Told()
    invoice = await life.buy("pro")
    await life.calm()
    rows = await told.rows()
    assert sorted(row.type for row in rows) == ["credits.granted", "subscription.started"]
    by_type = {row.type: row for row in rows}
    granted_event, started = by_type["credits.granted"], by_type["subscription.started"]
    account = await life.row()
    assert (granted_event.account_id, granted_event.invoice) == (account.id, invoice)
    assert (granted_event.balance, granted_event.data["credits"], granted_event.data["plan"]) == (
        *(2000, 2000, "pro"),
    )
    assert (started.data["plan"], started.data["status"]) == ("pro", "active")
    assert started.subscription is not None

    await pay_on_with(life, "pm_card_chargeCustomerFail")
    await life.pass_days(31)
    failing = await told.types()
    assert [kind for kind in failing if kind.startswith("payment")] == ["payment.failed"]
    assert {kind for kind in failing if kind.startswith("subscription")} == {
        *("subscription.renewed", "subscription.changed"),  # it is past due now
    }
    seen = await life.account()
    _, purchase = await life.post("/api/invoices", invoice=seen["activating"]["invoice"])
    await life.pay(purchase)
    await life.calm()
    await life.work()
    assert sorted(await told.types()) == ["credits.granted", "subscription.changed"]

    await redeliver(life)
    assert await told.types() == []
    rows, account = await OutboundEvent.filter(account_id=account.id).order_by("id"), await life.row()
    assert (rows[-1].version, rows[-1].balance) == (account.version, account.balance)
    versions = [row.version for row in rows]
    assert versions == sorted(versions)


async def test_a_cancellation_and_the_end(world: World) -> None:
    life, told = await a_life(world), Told()
    await life.buy("pro")
    await life.calm()
    await told.rows()
    status, _ = await life.post("/api/subscriptions/cancel")
    assert status == 200
    await life.calm()
    assert await told.types() == ["subscription.canceled"]
    status, _ = await life.post("/api/subscriptions/resume")
    assert status == 200
    await life.calm()
    assert await told.types() == ["subscription.changed"]
    await life.post("/api/subscriptions/cancel")
    await life.pass_days(32)
    types = await told.types()
    assert types[0] == "subscription.canceled"
    assert types.count("subscription.ended") == 1
    assert (await Subscription.all().get()).status == "canceled"


async def test_a_reversal_and_what_the_balance_becomes(world: World) -> None:
    """Spent credits are refunded: a debt. A spend tells only of what the balance has become."""
    life, told = await a_life(world), Told()
    invoice = await life.buy("pro")
    await life.calm()
    await told.rows()
    await Account.filter(external_id="ada").update(low_balance=500)
    await life.spend(1400, "a")
    assert await told.types() == []
    await life.spend(100, "b")
    assert await told.types() == ["balance.low"], "500 is low"
    await life.spend(500, "c")
    rows = await told.rows()
    assert [(row.type, row.balance) for row in rows] == [("balance.depleted", 0)]
    await life.refund(invoice)
    await life.wait_for_status(invoice, "reversed")
    await life.calm()
    rows = await told.rows()
    assert [row.type for row in rows] == ["credits.reversed", "account.in_debt"]
    assert {(row.balance, row.invoice, row.version) for row in rows} == {(-2000, invoice, rows[0].version)}, (
        "the events of one entry share its version"
    )
    await redeliver(life)
    assert await told.types() == []


async def test_a_payment_of_nobody_is_told_without_an_account(world: World) -> None:
    """S41: a Payment Link's session, which nobody is known for. Once it is claimed, its account is told."""
    paidup, shop = await world.server(webhooks=False), CheckoutShop(world.stripe_side)
    session = await shop.open(EXTRA)
    await shop.pay(session)
    for _ in range(2):
        status, shown = await paidup.get(f"/api/checkout/{session}")
        assert (status, shown["stage"]) == (200, "unclaimed")
        await paidup.services.checkouts.refresh(session, Source.RECONCILIATION)
    event = await OutboundEvent.all().get()
    assert (event.type, event.account_id, event.balance) == ("checkout.unclaimed", None, None)
    assert (event.data["checkout"], event.data["plan"]) == (session, "extra")
    ada = await an_account()
    await paidup.services.claims.claim(session, ada)
    assert [row.type for row in await OutboundEvent.filter(account_id=ada.id)] == ["credits.granted"]


async def test_a_rollback_leaves_no_event(database_url: str) -> None:
    """S10: the second grant of an invoice violates the unique key, and its event is gone with it."""
    async with open_database(database_url):
        ada = await an_account()
        invoice = await granted(ada, 2000)
        with pytest.raises(IntegrityError):
            await _grant(ada, invoice)
        with pytest.raises(ZeroDivisionError):
            await _grant(ada, await an_invoice(ada), then=lambda: 1 // 0)
        assert [row.type for row in await OutboundEvent.all()] == ["credits.granted"]


async def _grant(account: Account, invoice: Invoice, then: Callable[[], object] = lambda: None) -> None:
    async with write_transaction():
        await ledger.grant(await ledger.lock_account(account.id), invoice.id, ledger.GrantTerms(100))
        then()
