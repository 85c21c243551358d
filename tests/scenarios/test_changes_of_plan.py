"""Upgrades and downgrades, through the API or in Stripe, paid at once, later or never."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from paidup.db.models import Invoice, LedgerEntry, Subscription
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import (
    Life,
    a_life,
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


async def change_in_stripe(life: Life, plan: str, **form: str) -> None:
    """Change the plan directly in Stripe, and wait until all of its events are handled."""
    subscription = (await life.account())["subscription"]["id"]
    await change_without_webhooks(life, subscription, plan, **form)
    await life.calm()
    await life.work()


async def test_an_upgrade_halfway_gives_half_the_difference(life: Life) -> None:
    """S26."""
    await life.buy("basic")
    await life.pass_days(15)
    answer = await life.change("pro")
    assert answer["status"]["status"] == "active"
    (first, upgrade) = await life.entries()
    assert first == ("grant", 500)
    assert upgrade[0] == "grant"
    assert 740 <= upgrade[1] <= 800
    assert (await life.account())["subscription"]["plan"] == "pro"
    await assert_books_balance(grants=2)


async def test_an_upgrade_that_requires_authentication_applies_once_paid(life: Life) -> None:
    """S26: until then the plan stays, nothing is granted, and a repeated request returns the same invoice."""
    await life.buy("basic")
    await pay_on_with(life, ASKS)
    status, purchase = await life.post("/api/subscriptions/change", plan="pro")
    # 200 if Stripe's event arrived before the API's response.
    assert (status in (200, 201), purchase["status"]["status"]) == (True, "requires_action")
    seen = await life.account()
    assert (seen["subscription"]["plan"], seen["subscription"]["pending_plan"]) == ("basic", "pro")
    assert (seen["balance"], seen["activating"]["invoice"]) == (500, purchase["invoice"])
    assert seen["activating"]["reason"] == "subscription_update"
    status, again = await life.post("/api/subscriptions/change", plan="pro")
    assert (status, again["invoice"]) == (200, purchase["invoice"])
    assert again["client_secret"] == purchase["client_secret"]
    await life.stripe.authenticate(purchase["client_secret"])
    await life.wait_for_balance(2000)
    await life.calm()
    await life.work()
    seen = await life.account()
    assert (seen["subscription"]["plan"], seen["subscription"]["pending_plan"]) == ("pro", None)
    assert seen["activating"] is None
    await assert_books_balance(grants=2)


async def test_the_preview_shows_the_card_that_will_be_charged(life: Life) -> None:
    """The subscription's own before the customer's default, as Stripe charges them."""
    await life.buy("basic")
    account = await life.row()
    default = {"invoice_settings[default_payment_method]": "pm_card_mastercard"}
    await life.stripe.api(
        "POST", "payment_methods/pm_card_mastercard/attach", customer=account.stripe_customer
    )
    await life.stripe.api("POST", f"customers/{account.stripe_customer}", **default)
    _, preview = await life.post("/api/subscriptions/preview", plan="pro")
    assert preview["card"] == {"brand": "visa", "last4": "4242"}
    subscription = (await subscription_of(life))["id"]
    await life.stripe.api("POST", f"subscriptions/{subscription}", default_payment_method="")
    _, preview = await life.post("/api/subscriptions/preview", plan="pro")
    assert preview["card"] == {"brand": "mastercard", "last4": "4444"}


async def test_an_upgrade_is_shown_once_it_is_credited_although_no_webhook_arrives(life: Life) -> None:
    """The plan changes with the credits. The worker then reads the subscription, and finds the same."""
    await life.buy("basic")
    await pay_on_with(life, ASKS)
    await life.stripe.control("conditions", {"webhook_drop": True})
    _, purchase = await life.post("/api/subscriptions/change", plan="pro", interval="year")
    await life.stripe.authenticate(purchase["client_secret"])
    _, answer = await life.post("/api/invoices", invoice=purchase["invoice"])  # as a verification does
    assert answer["status"]["status"] == "active"
    seen = (await life.account())["subscription"]
    assert (seen["plan"], seen["pending_plan"]) == ("pro", None)
    read = "GET /v1/subscriptions/{id}"
    before = await life.stripe.calls(read)
    await life.work()
    assert await life.stripe.calls(read) == before + 1
    seen = (await life.account())["subscription"]
    assert (seen["plan"], seen["interval"], seen["pending_plan"]) == ("pro", "year", None)
    await life.work()
    assert await life.stripe.calls(read) == before + 1


async def test_an_upgrade_that_nobody_pays_is_over_although_no_webhook_arrives(life: Life) -> None:
    await life.buy("basic")
    await pay_on_with(life, ASKS)
    await life.stripe.control("conditions", {"webhook_drop": True})
    await life.post("/api/subscriptions/change", plan="pro")
    assert (await life.account())["subscription"]["pending_plan"] == "pro"
    await life.pass_days(1)
    seen = (await life.account())["subscription"]
    assert (seen["plan"], seen["pending_plan"]) == ("basic", None)


async def test_a_declined_upgrade_can_be_replaced_or_paid_with_another_card(life: Life) -> None:
    """S26: another change replaces the first, whose invoice is voided and cannot be paid."""
    await life.buy("basic")
    await pay_on_with(life, DECLINES)
    first = await life.change("pro")
    assert first["status"]["status"] == "failed"
    second = await life.change("advanced")
    assert second["invoice"] != first["invoice"]
    assert (await Invoice.get(id=first["invoice"])).status == "void"
    assert await life.balance() == 500
    await life.pay(second)
    assert await life.balance() == 1200
    await life.calm()
    await life.work()
    assert (await life.account())["subscription"]["plan"] == "advanced"
    await assert_books_balance(grants=2)


async def test_concurrent_plan_changes_create_one_invoice(life: Life) -> None:
    """S26: two clicks, one charge."""
    await life.buy("basic")
    both = await asyncio.gather(
        life.post("/api/subscriptions/change", plan="pro"),
        life.post("/api/subscriptions/change", plan="pro"),
    )
    changed = [answer["invoice"] for status, answer in both if status in (200, 201)]
    refused = [answer["type"] for status, answer in both if status == 409]
    assert len(set(changed)) == 1, both
    assert len(changed) + len(refused) == 2
    await life.wait_for_balance(2000)
    assert len(await life.stripe.paid_invoices()) == 2
    await assert_books_balance(grants=2)


async def test_invalid_plan_changes_fail_with_a_reason(life: Life) -> None:
    status, problem = await life.post("/api/subscriptions/change", plan="pro")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "not-subscribed")
    await life.buy("basic")
    for plan, status, kind in (
        ("basic", 409, "already-on-plan"),
        ("none-such", 422, "unknown-plan"),
        ("extra", 422, "invalid-input"),
    ):
        answered, problem = await life.post("/api/subscriptions/change", plan=plan)
        assert (answered, problem["type"].rpartition("/")[2]) == (status, kind), problem
    assert await life.entries() == [("grant", 500)]


async def test_a_downgrade_applies_at_once_and_is_offset_later(life: Life) -> None:
    """S26: it adds and removes no credits; the money it leaves adds none when later invoices use it."""
    await life.buy("pro")
    answer = await life.change("basic")
    assert (answer["status"]["status"], answer["status"]["credits_granted"]) == ("active", 0)
    assert (await life.account())["subscription"]["plan"] == "basic"
    assert await life.balance() == 2000
    for _ in range(3):
        await life.pass_days(31)
    grants = [credits for _, credits in await life.entries()]
    assert grants[:4] == [2000, 0, 0, 0]  # 20.00 on the balance: two renewals of 9.00,
    assert 380 <= grants[4] <= 390  # and 2.00 of the third, whose cash gives its share
    await life.pass_days(31)
    assert [kind_credits for kind_credits in await life.entries() if kind_credits[0] == "grant"][-1][1] == 500
    await assert_books_balance(grants=6)


async def test_switching_between_plans_repeatedly_gains_nothing(life: Life) -> None:
    """S26."""
    await life.buy("pro")
    for plan in ("basic", "pro", "basic", "pro"):
        await life.change(plan)
    assert 1996 <= await life.balance() <= 2000
    kind, credits, reason = (await life.reasons())[-1]
    assert (kind, credits <= 1) == ("grant", True)
    assert "already granted before a downgrade" in reason, "or the customer would wonder"
    await assert_books_balance()


async def test_added_and_removed_seats_are_credited_by_their_money(life: Life) -> None:
    """S26: three seats are three times the credits; going back to one and to three again adds nothing."""
    await life.buy("basic")
    await life.change("basic", quantity=3)
    assert 1498 <= await life.balance() <= 1500
    await life.change("basic", quantity=1)
    await life.change("basic", quantity=3)
    assert 1497 <= await life.balance() <= 1500
    await life.pass_days(31)
    assert await life.balance() == 1500
    assert (await life.account())["subscription"]["quantity"] == 3


async def test_from_month_to_year_and_back(life: Life) -> None:
    """S26, S27: the unused month is deducted from the year; after it, at most 200 credits are due."""
    await life.buy("pro")
    answer = await life.change("pro", interval="year")
    first = answer["status"]["credits_granted"]
    assert 1830 <= first <= 1840  # (24000 - 2000) / 12
    assert len((await life.account())["installments"]) == 11
    await life.change("pro", interval="month")
    assert sum(part["credits"] for part in (await life.account())["installments"]) <= 200
    assert await life.balance() == 2000 + first
    await assert_books_balance()


async def test_a_plan_may_start_a_new_period_with_each_change(world: World, tmp_path: Path) -> None:
    """S26: `change = "restart_cycle"`: unused time is offset against a whole new month."""
    plans = plans_with(tmp_path, "pro", 'change = "restart_cycle"')
    life = await a_life(world, plans_file=plans)
    await life.buy("basic")
    await life.pass_days(15)
    answer = await life.change("pro")
    assert 1740 <= answer["status"]["credits_granted"] <= 1770
    await life.pass_days(17)  # the old period ends, the new one does not
    assert [kind for kind, _ in await life.entries()].count("grant") == 2


async def test_a_plan_may_give_an_upgrade_in_full(world: World, tmp_path: Path) -> None:
    """S26: `upgrade = "full"`: the plan's full credits for a prorated price; repeating it gains nothing."""
    life = await a_life(world, plans_file=plans_with(tmp_path, "pro", 'upgrade = "full"'))
    await life.buy("basic")
    await life.pass_days(15)
    answer = await life.change("pro")
    assert 1740 <= answer["status"]["credits_granted"] <= 1770
    before = await life.balance()
    await life.change("basic")
    await life.change("pro")
    assert await life.balance() <= before


async def test_a_change_made_in_stripe_is_credited_by_its_lines(life: Life) -> None:
    """S26: invoiced at once in Stripe; the webhook announces it."""
    await life.buy("basic")
    await change_in_stripe(life, "pro", proration_behavior="always_invoice")
    await life.wait_for_balance(2000)
    assert (await life.account())["subscription"]["plan"] == "pro"
    await assert_books_balance(grants=2)


async def test_prorations_billed_at_the_renewal_are_credited_with_it(life: Life) -> None:
    """S26: Stripe's default makes no invoice now: no credits now, and several lines on the next invoice."""
    await life.buy("basic")
    await change_in_stripe(life, "pro")
    assert await life.balance() == 500
    assert (await life.account())["subscription"]["plan"] == "pro"
    await life.pass_days(31)
    assert 3490 <= await life.balance() <= 3500  # the basic month is over; half of a pro one, and a whole
    await assert_books_balance(grants=2)


@pytest.mark.parametrize(
    ("form", "least", "most"),
    [
        pytest.param({"billing_mode[flexible][proration_discounts]": "itemized"}, 1490, 1500, id="itemized"),
        pytest.param({}, 740, 750, id="by default"),
    ],
)
async def test_a_discount_changes_no_credits_if_prorations_are_itemized(
    life: Life, form: dict[str, str], least: int, most: int
) -> None:
    """S21, S26: otherwise Stripe's proration lines are net of it, and credits follow what they charge."""
    coupon = (await life.stripe.api("POST", "coupons", percent_off="50", duration="forever"))["id"]
    customer = await life.stripe.customer()
    made = await life.stripe.subscribe(
        customer, "basic", account=life.customer.name, **{"discounts[0][coupon]": coupon}, **form
    )
    await life.balance()  # the account exists, and its events find it
    secret = made["latest_invoice"]["confirmation_secret"]["client_secret"]
    await life.stripe.confirm(secret)
    await life.wait_for_balance(500)
    await life.calm()
    await life.work()
    await life.pay(await life.change("pro"))
    assert least <= await life.balance() - 500 <= most
    await life.change("basic")
    await life.change("pro")
    assert await life.balance() <= 500 + most
    await assert_books_balance()


async def test_no_plan_change_is_possible_while_a_renewal_is_unpaid(life: Life) -> None:
    """S24: 409; the unpaid invoice is shown as `activating`."""
    await life.buy("basic")
    await pay_on_with(life, DECLINES)
    await life.pass_days(31)
    status, problem = await life.post("/api/subscriptions/change", plan="pro")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "invoice-unpaid")
    activating = (await life.account())["activating"]
    assert (activating["status"]["status"], activating["invoice"]) == ("failed", problem["invoice"])
    assert await Invoice.filter(billing_reason="subscription_update").count() == 0


async def test_an_upgrade_whose_payment_fails_days_later_gives_nothing(life: Life) -> None:
    """S24: the status is processing, then failed; the plan stays."""
    await life.buy("basic")
    await life.stripe.conditions(processing_ms=3000, processing_outcome="failed")
    purchase = await life.change("pro")
    assert purchase["status"]["status"] == "processing"
    assert (await life.account())["subscription"]["plan"] == "basic"
    status, problem = await life.post("/api/subscriptions/change", plan="advanced")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "payment-under-way")
    await wait_until(lambda: Invoice.exists(id=purchase["invoice"], status="failed"))
    await life.calm()
    await life.work()
    assert await life.entries() == [("grant", 500)]
    assert (await life.account())["subscription"]["plan"] == "basic"
    await assert_books_balance(grants=1)


async def test_the_order_in_which_invoices_arrive_changes_no_balance(world: World) -> None:
    """S26: without webhooks, the invoices of seven changes are found one by one, the last first."""
    life = await a_life(world, webhooks=False)
    _, purchase = await life.post("/api/subscriptions", plan="pro")
    await life.stripe.confirm(purchase["client_secret"])
    subscription = (await Subscription.get()).id
    made = [purchase["invoice"]]
    for plan in ("basic", "advanced", "pro", "basic", "pro", "advanced", "basic"):
        made.append(
            await change_without_webhooks(life, subscription, plan, proration_behavior="always_invoice")
        )
    assert await life.balance() == 0
    for invoice in reversed(made):
        status, answer = await life.post("/api/invoices", invoice=invoice)
        assert (status, answer["status"]["status"]) in ((200, "active"), (201, "active"))
        await assert_books_balance()
    assert 1990 <= await life.balance() <= 2000
    assert sum([credits for invoice in made for _, credits, _ in await grants_of(invoice)][1:]) <= 0
    assert await LedgerEntry.exists(kind="adjust")
    await assert_books_balance(grants=8)


async def change_without_webhooks(life: Life, subscription: str, plan: str, **form: str) -> str:
    """Change the plan in Stripe; returns the newest invoice."""
    lookup = f"prices?lookup_keys[0]=paidup_{plan}_monthly"
    price = (await life.stripe.api("GET", lookup))["data"][0]["id"]
    item = (await life.stripe.api("GET", f"subscriptions/{subscription}"))["items"]["data"][0]["id"]
    items = {"items[0][id]": item, "items[0][price]": price}
    changed = await life.stripe.api("POST", f"subscriptions/{subscription}", **items, **form)
    return str(changed["latest_invoice"])
