"""Renewals, yearly plans, trials, cancellations, and their credits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paidup.db.models import CreditGrant, GrantState, Invoice
from paidup.domain.billing_months import add_months
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import balance_with
from tests.support.subscription_lifecycle import (
    Life,
    a_life,
    advance,
    buy_without_webhooks,
    grants_of,
    pay_on_with,
    plans_with,
    subscription_of,
)
from tests.support.waiting import wait_until

ASKS, DECLINES = "pm_card_authenticationRequired", "pm_card_chargeCustomerFail"


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def test_a_renewal_is_credited(life: Life) -> None:
    await life.buy("pro")
    await life.pass_days(31)
    assert await life.entries() == [("grant", 2000), ("grant", 2000)]
    _, shown = await life.customer.call("GET", "/api/account/entries")
    renewed, bought = (datetime.fromisoformat(entry["at"]) for entry in shown["entries"])
    assert renewed - bought >= timedelta(days=30), "dated by Stripe's calendar"
    await assert_books_balance(grants=2)


async def test_a_renewal_without_a_webhook_is_found_by_the_subscription(world: World) -> None:
    """S20: its period is over, so the reconciler reads the subscription."""
    life = await a_life(world, webhooks=False)
    await buy_without_webhooks(life, "pro")
    await advance(life, 32)
    await life.paidup.services.reconciler.due.subscriptions()
    assert await life.entries() == [("grant", 2000), ("grant", 2000)]
    row = await Invoice.filter(billing_reason="subscription_cycle").get()
    assert row.settled_via == "reconciliation"


async def test_a_failed_subscription_read_is_retried_soon(world: World) -> None:
    """S20: an outage delays it by 20 s, not by the lease's minute."""
    life = await a_life(world, webhooks=False)
    await buy_without_webhooks(life, "pro")
    await advance(life, 32)
    await life.stripe.conditions(api_down=True)
    reconciler = life.paidup.services.reconciler
    assert await reconciler.due.subscriptions() == 1
    await life.stripe.conditions(api_down=False)
    assert await reconciler.due.subscriptions() == 0
    life.clock.ahead += timedelta(seconds=20)
    assert await reconciler.due.subscriptions() == 1
    assert await life.entries() == [("grant", 2000), ("grant", 2000)]


async def test_renewals_without_webhooks_for_months_are_found_in_stripes_list(world: World) -> None:
    """S20: including invoices older than the subscription's `latest_invoice`."""
    life = await a_life(world, webhooks=False)
    await buy_without_webhooks(life, "pro")
    await advance(life, 93)
    assert await life.paidup.services.reconciler.lists.paid_invoices() == 3
    assert await life.balance() == 4 * 2000
    await assert_books_balance(grants=4)


@pytest.mark.parametrize(("card", "shown"), [(ASKS, "requires_action"), (DECLINES, "failed")])
async def test_an_unpaid_renewal_is_shown_and_can_be_paid(life: Life, card: str, shown: str) -> None:
    """S24: the customer's next visit shows the invoice, with a ticket; once paid, it is credited once."""
    await life.buy("pro")
    await pay_on_with(life, card)
    await life.pass_days(32)
    seen = await life.account()
    assert (seen["balance"], seen["subscription"]["status"]) == (2000, "past_due")
    activating = seen["activating"]
    assert activating["ticket"]
    assert activating["reason"] == "subscription_cycle"
    assert activating["status"]["status"] in (shown, "failed")
    status, credits = await life.customer.call("GET", "/api/credits")
    assert (status, credits["activating"]["invoice"]) == (200, activating["invoice"])
    status, purchase = await life.post("/api/invoices", invoice=activating["invoice"])
    assert (status, purchase["invoice"]) == (200, activating["invoice"])
    await life.pay(purchase, "pm_card_visa")
    await life.calm()
    await life.work()
    seen = await life.account()
    assert (seen["balance"], seen["subscription"]["status"], seen["activating"]) == (4000, "active", None)
    assert await life.entries() == [("grant", 2000), ("grant", 2000)]
    await assert_books_balance(grants=2)


async def test_the_account_shows_a_paid_plan_as_active_before_the_next_read(world: World) -> None:
    """S01: credits next to an inactive plan would confuse a customer who has just paid."""
    life = await a_life(world, webhooks=False)
    await buy_without_webhooks(life, "pro")
    seen = await life.account()
    assert (seen["balance"], seen["subscription"]["plan"], seen["subscription"]["status"]) == (
        2000,
        "pro",
        "active",
    )


async def test_the_account_shows_no_expired_credits(life: Life) -> None:
    """S27: a request sees what can be spent, and an open page is sent the change."""
    await life.buy("basic", interval="year")
    async with life.customer.watch_balance() as socket:
        await balance_with(socket, 500)
        await advance(life, 35)  # no worker grants the next month's credits within the grace
        assert (await life.account())["balance"] == 0
        await balance_with(socket, 0)
    assert await life.entries() == [("grant", 500), ("expire", -500)]


# Years and months


async def test_a_yearly_plan_gives_its_credits_month_by_month(life: Life) -> None:
    """S27."""
    invoice = await life.buy("pro", interval="year")
    assert await life.balance() == 2000
    await life.pass_days(32)
    assert await life.balance() == 4000
    await life.pass_days(320)
    assert await life.balance() == 24000
    assert len(await grants_of(invoice)) == 12
    await assert_books_balance()


async def test_a_refund_takes_the_credits_back(life: Life) -> None:
    """S25."""
    invoice = await life.buy("pro")
    await life.refund(invoice)
    await life.wait_for_balance(0)
    await assert_books_balance()


async def test_a_top_up_does_not_expire(life: Life) -> None:
    """S27."""
    await life.buy("basic")
    await life.top_up()
    assert await life.balance() == 1500
    await life.pass_days(32)
    assert await life.balance() == 1500
    await assert_books_balance()


async def test_an_installment_is_granted_once_by_several_reconcilers(life: Life) -> None:
    """S27: several installments at once, after a downtime of five months."""
    invoice = await life.buy("pro", interval="year")
    await advance(life, 5 * 31)
    sweep = life.paidup.services.reconciler.due.installments
    while sum(await asyncio.gather(sweep(), sweep())):
        pass
    assert await life.balance() == 6 * 2000
    assert [state for state, _, _ in await grants_of(invoice)].count("live") == 6
    await assert_books_balance(grants=1)


async def test_after_a_downtime_installments_of_past_months_have_expired(life: Life) -> None:
    """S27: with expiring credits each month gets its own, even late, and the current month's stay."""
    await life.buy("basic", interval="year")
    await life.pass_days(100)
    assert await life.balance() == 500
    kinds = [kind for kind, _ in await life.entries()]
    assert (kinds.count("grant"), kinds.count("expire")) == (4, 3)
    await assert_books_balance(grants=1)


async def test_a_plan_change_within_the_year_changes_later_installments(life: Life) -> None:
    """S26, S27: an upgrade adds to later months; a downgrade lowers them and removes nothing."""
    await life.buy("basic", interval="year")
    await life.pass_days(3)
    await life.change("pro", interval="year")
    to_come = (await life.account())["installments"]
    assert sum(part["credits"] for part in to_come) == pytest.approx(11 * 2000, rel=0.02)
    before = await life.balance()
    await life.change("basic", interval="year")
    assert await life.balance() == before
    to_come = (await life.account())["installments"]
    assert sum(part["credits"] for part in to_come) == pytest.approx(11 * 500 - 1500, rel=0.02)
    await assert_books_balance()


async def test_a_year_from_a_31st_grants_on_the_last_day_of_short_months(life: Life) -> None:
    """S27: installments follow Stripe's own month boundaries."""
    stripe_now = (await life.stripe.look("clock"))["now"]
    here = datetime.fromtimestamp(stripe_now, UTC)
    until = datetime(here.year + 1, 1, 31, 12, tzinfo=UTC)
    await life.pass_days((until - here).total_seconds() / 86400)
    invoice = await life.buy("pro", interval="year")
    parts = await CreditGrant.filter(invoice_id=invoice, state=GrantState.PLANNED).order_by("installment")
    seen = [part.due_at for part in parts if part.due_at]
    assert {(at.month, at.day) for at in seen} >= {(3, 31), (4, 30), (12, 31)}
    assert seen[0].day in (28, 29)
    begin = int(seen[1].timestamp())
    assert [int(at.timestamp()) for at in seen[1:]] == [add_months(begin, n) for n in range(10)]


async def test_unused_credits_expire_stay_or_roll_over_up_to_a_cap(life: Life) -> None:
    """S27: expire, cap and keep, month by month; each expiry is an entry; a top-up never expires."""
    await life.buy("advanced")
    await life.top_up()
    await life.spend(200, "a")
    for _ in range(3):
        await life.pass_days(31)
    # 1000 of the first month roll over; then 1200 at most, plus the current month's credits and the top-up.
    assert await life.balance() == 1200 + 1200 + 1000
    grants = [entry for entry in await life.entries() if entry[0] == "grant"]
    assert grants == [("grant", 1200), ("grant", 1000), *[("grant", 1200)] * 3]
    assert sum(credits for kind, credits in await life.entries() if kind == "expire") == -2200 + 0
    await assert_books_balance(grants=5)


# Nothing to pay


async def trial(life: Life, plan: str, **form: str) -> None:
    """A subscription created in Stripe that is free at first, with a saved card."""
    await life.balance()  # the account exists
    customer = await life.stripe.customer()
    await life.stripe.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    methods = (await life.stripe.api("GET", f"payment_methods?customer={customer}"))["data"]
    await life.stripe.subscribe(
        customer, plan, account=life.customer.name, default_payment_method=methods[0]["id"], **form
    )
    await life.calm()
    await life.work()


async def test_a_trial_gives_its_own_credits_and_then_the_plan(world: World, tmp_path: Path) -> None:
    """S21: `trial_credits` at once; the plan's credits with the first paid invoice."""
    life = await a_life(world, plans_file=plans_with(tmp_path, "pro", "trial_credits = 50"))
    await trial(life, "pro", trial_period_days="14")
    assert await life.entries() == [("grant", 50)]

    async def trialing() -> bool:
        await life.work()
        return bool((await subscription_of(life))["status"] == "trialing")

    await wait_until(trialing)
    await life.pass_days(15)
    assert await life.entries() == [("grant", 50), ("grant", 2000)]
    assert (await subscription_of(life))["status"] == "active"
    await assert_books_balance(grants=2)


async def test_a_trial_of_a_yearly_plan_gives_no_year(world: World, tmp_path: Path) -> None:
    """S21, S27."""
    life = await a_life(world, plans_file=plans_with(tmp_path, "pro", "trial_credits = 50"))
    price = (await life.stripe.api("GET", "prices?lookup_keys[0]=paidup_pro_yearly"))["data"][0]["id"]
    await trial(life, "pro", trial_period_days="14", **{"items[0][price]": price})
    assert await life.entries() == [("grant", 50)]
    assert (await life.account())["installments"] == []
    await life.pass_days(15)
    assert await life.balance() == 2050
    assert len((await life.account())["installments"]) == 11


async def test_a_fully_discounted_plan_gives_its_credits(life: Life) -> None:
    """S21: and again with each renewal."""
    coupon = (await life.stripe.api("POST", "coupons", percent_off="100", duration="forever"))["id"]
    await trial(life, "pro", **{"discounts[0][coupon]": coupon})
    assert await life.entries() == [("grant", 2000)]
    await life.pass_days(31)
    assert await life.entries() == [("grant", 2000), ("grant", 2000)]


async def test_a_free_plan_gives_its_credits_each_month(world: World, tmp_path: Path) -> None:
    """S21: an upgrade from a free plan is credited in full, since nothing was paid for it."""
    path = tmp_path / "plans.toml"
    free = """
[[plans]]
id = "free"
name = "Free"
credits = 20
rollover = "expire"
[[plans.prices]]
lookup_key = "paidup_free_monthly"
amount_minor = 0
"""
    path.write_text(PACKAGED_PLANS.read_text() + free)
    form = {"currency": "usd", "unit_amount": "0", "lookup_key": "paidup_free_monthly"}
    more = {"product_data[name]": "Free", "recurring[interval]": "month"}
    await world.stripe_side.api("POST", "prices", **form, **more)
    life = await a_life(world, plans_file=path)
    status, purchase = await life.post("/api/subscriptions", plan="free")
    assert status in (200, 201)  # its webhook may have brought the invoice first
    assert (purchase["client_secret"], purchase["status"]["status"]) == (None, "active")
    await life.pass_days(31)
    assert await life.balance() == 20
    await life.pay(await life.change("pro"))
    assert await life.balance() == 2020
    await assert_books_balance(grants=3)


# A payment that takes days


async def test_a_payment_that_fails_after_days_gives_nothing(life: Life) -> None:
    """S24: the status is processing, then failed with a reason; another card pays the same invoice."""
    await life.stripe.conditions(processing_ms=1500, processing_outcome="failed")
    _, purchase = await life.post("/api/subscriptions", plan="pro")
    await life.stripe.confirm(purchase["client_secret"])
    await wait_until(lambda: Invoice.exists(id=purchase["invoice"], status="processing"))
    await wait_until(lambda: Invoice.exists(id=purchase["invoice"], status="failed"))
    _, status = await life.customer.call("GET", f"/api/invoices/{purchase['invoice']}")
    assert (status["status"], status["error"]["code"]) == ("failed", "card_declined")
    assert await life.balance() == 0
    await life.stripe.conditions(processing_ms=0)
    await life.pay(purchase)
    assert await life.entries() == [("grant", 2000)]
    await assert_books_balance(grants=1)
