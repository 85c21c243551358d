"""How often Stripe is read: once for an activation, and at rest hardly at all."""

from __future__ import annotations

from datetime import timedelta

import pytest

from paidup.db.models import Invoice, StripeReads, Watermark
from paidup.domain.payment_facts import Source
from paidup.reconciliation.list_sweeps import ListSweeps
from paidup.runtime.clock import now
from paidup.stripe_api.read_count import month_of
from tests.conftest import World
from tests.support.read_counts import a_day_at_rest, activate, count_reads, reads_of, renew
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import Life, a_life
from tests.support.waiting import wait_until

MOST_A_DAY = 100
OTHER_VERSION = "2024-06-20"


@pytest.fixture
async def life(world: World) -> Life:
    """A server that has read the prices already."""
    life = await a_life(world)
    await life.paidup.services.prices.refresh()
    return life


def lists_of(life: Life) -> ListSweeps:
    return life.paidup.services.reconciler.lists


async def test_an_activation_costs_one_read_and_a_renewal_at_most_one(life: Life) -> None:
    """S01: the page's verification; the webhooks, and the subscription's, cost none."""
    assert await reads_of(life.stripe, lambda: activate(life, life.customer)) <= 1
    assert await life.balance() == 2000
    assert await reads_of(life.stripe, lambda: renew(life)) <= 1
    assert await life.balance() == 4000


async def test_a_day_without_customers_costs_less_than_a_hundred_reads(life: Life) -> None:
    """Stripe's allowance is ten thousand a month: it was 4,000 a day."""
    await life.buy("pro")
    assert 6 <= await reads_of(life.stripe, lambda: a_day_at_rest(lists_of(life))) <= MOST_A_DAY


async def test_a_payment_without_its_webhook_brings_the_scans_back(life: Life) -> None:
    """S35: for an hour, each list is read every minute or five."""
    await lists_of(life).undelivered_events()
    before = await life.stripe.calls("GET /v1/events")
    await a_scan_after(life, timedelta(minutes=2))
    assert await life.stripe.calls("GET /v1/events") == before, "at rest"
    await life.stripe.conditions(webhook_drop=1.0)
    status, purchase = await life.post("/api/subscriptions", plan="pro")
    assert status == 201
    await life.stripe.confirm(purchase["client_secret"])
    await life.paidup.services.verification.verify(purchase["invoice"])
    await Invoice.all().update(settled_at=now() - timedelta(minutes=5))
    await a_scan_after(life, timedelta(minutes=2))
    assert await life.stripe.calls("GET /v1/events") > before


async def a_scan_after(life: Life, passed: timedelta) -> None:
    """Look for undelivered events, so long after the last scan."""
    await Watermark.filter(name__startswith="undelivered").update(moved_at=now() - passed)
    await lists_of(life).undelivered_events()


async def test_no_scan_runs_once_the_months_reads_are_used_up(life: Life) -> None:
    """Customers go on: their payments are verified, and webhooks settle as ever."""
    await StripeReads.create(month=month_of(now()), reads=10_000)
    assert await reads_of(life.stripe, lists_of(life).undelivered_events) == 0
    assert await reads_of(life.stripe, lists_of(life).paid_invoices) == 0
    assert await reads_of(life.stripe, lists_of(life).reversals) == 0
    await life.stripe.conditions(webhook_drop=1.0)
    _, purchase = await life.post("/api/subscriptions", plan="pro")
    await life.stripe.confirm(purchase["client_secret"])
    await Invoice.all().update(next_check_at=now())
    await life.paidup.services.reconciler.due.invoices()
    assert (await Invoice.get(id=purchase["invoice"])).settled_via is Source.RECONCILIATION


async def test_every_read_is_counted(life: Life, stripe_side: StripeSide) -> None:
    """What Stripe's side has counted is in this month's row."""
    await life.buy("pro")
    await lists_of(life).paid_invoices()

    async def same() -> bool:
        row = await StripeReads.get_or_none(month=month_of(now()))
        return row is not None and row.reads == await count_reads(stripe_side)

    await wait_until(same)


async def test_ten_activations_with_events_of_another_version_cost_twenty_reads(life: Life) -> None:
    """S19: `stripe listen` without --latest: one read of the invoice and one of the subscription, each."""
    await life.stripe.conditions(webhook_api_version=OTHER_VERSION)

    async def ten() -> None:
        for number in range(10):
            await activate(life, life.paidup.customer(f"c{number}"), pay_first=True)

    assert await reads_of(life.stripe, ten) <= 20
    for number in range(10):
        assert await life.paidup.customer(f"c{number}").balance() == 2000
