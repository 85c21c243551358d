"""Bank debits that are processing for days, customers who pay in another currency, plans never paid."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from paidup.db.models import Invoice, StripeEvent
from paidup.domain.delayed_methods import add_business_days
from paidup.operations.explain import explain
from paidup.runtime.clock import now
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.gateway import StripeGateway
from paidup.web import webhooks
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

READ_INVOICE = "GET /v1/invoices/{id}"
READ_INTENT = "GET /v1/payment_intents/{id}"
SUCCEEDS, FAILS = "pm_usBankAccount_success", "pm_usBankAccount_insufficientFunds"


async def status_now(customer: Customer, purchase: Any) -> Any:
    status, shown = await customer.call("GET", f"/api/invoices/{purchase['invoice']}")
    assert status == 200, shown
    return shown


async def debit(paidup: Paidup, stripe_side: StripeSide, account: str = SUCCEEDS) -> tuple[Customer, Any]:
    """A customer whose plan a bank debit is paying, once the server knows by which method."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    confirmed = await stripe_side.confirm(purchase["client_secret"], account)
    assert confirmed["status"] == "processing"
    async with ada.watch(purchase) as socket:
        while (await status_with(socket, status="processing"))["processing"] is None:
            pass
    return ada, purchase


async def decide(stripe_side: StripeSide, purchase: Any, outcome: str | None = None) -> None:
    """The bank's answer, days later."""
    intent = purchase["client_secret"].partition("_secret_")[0]
    await stripe_side.control(f"payment_intents/{intent}/decide", {"outcome": outcome} if outcome else {})


@pytest.mark.parametrize("webhooks", [True, False])
async def test_a_debit_is_shown_as_such_for_days_and_then_credited(
    world: World, stripe_side: StripeSide, webhooks: bool
) -> None:
    """S44: a debit in processing is never failure: it says by which method, and by when the bank answers."""
    paidup = await world.server(webhooks=webhooks)
    ada, purchase = await debit(paidup, stripe_side)
    shown = await status_now(ada, purchase)
    assert (shown["status"], shown["stage"], shown["error"]) == ("processing", "processing", None)
    told = shown["processing"]
    assert (told["method"], told["name"], told["credits_on_trust"]) == (
        "us_bank_account",
        "ACH Direct Debit",
        0,
    )
    since, expected_at = (datetime.fromisoformat(told[name]) for name in ("since", "expected_at"))
    assert expected_at == add_business_days(since, 4)
    assert told["message"].startswith("Your ACH Direct Debit is under way. The bank usually answers by ")
    assert "this page" not in told["message"]
    status, refused = await ada.spend(1, "too-early")
    assert (status, refused["activating"]["status"]["processing"]["message"]) == (402, told["message"])
    (report,) = (await explain(purchase["invoice"])).invoices
    assert report.recommendation.startswith("Wait: the ACH Direct Debit began on ")
    await decide(stripe_side, purchase)
    if not webhooks:
        await Invoice.all().update(next_check_at=now() - timedelta(seconds=1))
        assert await paidup.services.reconciler.due.invoices() == 1
    async with ada.watch(purchase) as socket:
        paid = await status_with(socket, status="active")
    assert (paid["credits_granted"], paid["processing"]) == (2000, None)
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_nobody_pays_twice_while_a_debit_is_processing(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S44: the same plan is the same purchase, another plan is refused, and so is a change of this one."""
    ada, purchase = await debit(paidup, stripe_side)
    again = await ada.buy("pro")
    assert (again["invoice"], again["status"]["status"]) == (purchase["invoice"], "processing")
    status, refused = await ada.call("POST", "/api/subscriptions", {"plan": "basic"})
    assert (status, refused["type"].rpartition("/")[2]) == (409, "payment-under-way")
    for path in ("/api/subscriptions/change", "/api/subscriptions/preview"):
        status, refused = await ada.call("POST", path, {"plan": "basic"})
        assert (status, refused["type"].rpartition("/")[2]) == (409, "payment-under-way"), refused
    for plan in ("pro", "basic"):  # on Stripe's page neither
        status, refused = await ada.call("POST", "/api/checkout", {"plan": plan})
        assert (status, refused["type"].rpartition("/")[2]) == (409, "payment-under-way"), refused
    assert await stripe_side.calls("POST /v1/subscriptions") == 1
    assert await stripe_side.calls("POST /v1/checkout/sessions") == 0
    await decide(stripe_side, purchase)
    await wait_until(lambda: _is_credited(ada))
    await assert_books_balance(grants=1)


async def _is_credited(customer: Customer) -> bool:
    return await customer.balance() == 2000


async def test_a_debit_that_fails_days_later_is_told_and_can_be_repeated(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S24: nothing is granted; the customer reads what failed, and pays the same invoice by card."""
    ada, purchase = await debit(paidup, stripe_side, FAILS)
    async with ada.watch(purchase) as socket:
        await status_with(socket, status="processing")
        await decide(stripe_side, purchase)
        failed = await status_with(socket, status="failed")
        while failed["error"]["code"] != "insufficient_funds":
            failed = await status_with(socket, status="failed")
        assert failed["error"]["message"] == "The ACH Direct Debit did not go through."
        assert (await Invoice.get()).debit_failed
        again = await ada.buy("pro")
        assert (again["invoice"], again["client_secret"]) == (purchase["invoice"], purchase["client_secret"])
        await stripe_side.confirm(again["client_secret"])
        assert (await status_with(socket, status="active"))["credits_granted"] == 2000
    await assert_books_balance(grants=1)


async def test_another_plan_after_a_debit_that_failed_leaves_nothing_to_pay(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S44: its subscription was active and is past due, so Stripe does not void its invoice by itself."""
    ada, purchase = await debit(paidup, stripe_side, FAILS)
    await decide(stripe_side, purchase)
    await wait_until(lambda: _has_failed(ada, purchase))
    other = await ada.buy("basic")
    assert other["invoice"] != purchase["invoice"]
    left = await stripe_side.api("GET", f"invoices/{purchase['invoice']}")
    assert left["status"] == "void"
    running = (await stripe_side.api("GET", "subscriptions?status=all"))["data"]
    assert sorted(each["status"] for each in running) == ["canceled", "incomplete"]


async def _has_failed(customer: Customer, purchase: Any) -> bool:
    return bool((await status_now(customer, purchase))["status"] == "failed")


async def test_a_debit_is_verified_twice_a_day_and_never_given_up(
    world: World, stripe_side: StripeSide
) -> None:
    """S44: the method is read once; the reconciler's checks are spaced, however old the invoice is."""
    paidup = await world.server(webhooks=False)
    await debit(paidup, stripe_side, "pm_usBankAccount_processing")
    for age in (timedelta(days=1), timedelta(days=100)):
        begun = now()
        await Invoice.all().update(next_check_at=begun, created_at=begun - age)
        assert await paidup.services.reconciler.due.invoices() == 1
        row = await Invoice.get()
        assert row.next_check_at is not None
        assert timedelta(hours=11) < row.next_check_at - begun < timedelta(hours=13)
        assert row.status == "processing"
    assert await stripe_side.calls(READ_INTENT) == 1


async def test_an_event_is_answered_with_what_it_changed_although_the_method_is_read_too_slowly(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S44: the deadline passes after the commit, so the delivery is no repeated one; the next one is."""
    paidup = await world.server(webhooks=False)
    purchase = await paidup.customer("ada").buy("pro")
    await stripe_side.confirm(purchase["client_secret"], SUCCEEDS)
    await wait_until(lambda: Invoice.exists(published_version=1))  # nothing else changes the row
    deadlines: list[asyncio.Timeout] = []

    def later(_: float) -> asyncio.Timeout:
        deadlines.append(asyncio.timeout(60))
        return deadlines[-1]

    async def too_slowly(*_: Any) -> None:
        deadlines[-1].reschedule(0)
        await asyncio.Event().wait()

    monkeypatch.setattr(webhooks, "_until", later)
    monkeypatch.setattr(StripeGateway, "read_intent", too_slowly)
    event = json.dumps(await stripe_side.event("payment_intent.processing")).encode()
    for outcome in ("notified", "duplicate"):
        assert await paidup.webhook(event) == (200, {"received": True, "outcome": outcome})
    assert await StripeEvent.filter(outcome="notified", handled_at__isnull=False).count() == 1


async def test_a_key_that_may_not_read_the_method_is_not_used_for_it_again(
    world: World, stripe_side: StripeSide
) -> None:
    """S44: a restricted key without that permission: shown as processing, with no date and no failure."""
    permissions = [
        "customer_write",
        "subscription_write",
        "invoice_write",
        "payment_intent_read",
        "plan_read",
    ]
    permissions += ["product_read", "event_read", "charge_read"]
    key = (await stripe_side.control("restricted_keys", {"permissions": permissions}))["key"]
    paidup = await world.server(stripe_secret_key=key, webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"], SUCCEEDS)
    async with ada.watch(purchase) as socket:
        told = await status_with(socket, status="processing")
    assert (told["stage"], told["processing"], told["error"]) == ("processing", None, None)
    await wait_until(lambda: _was_read(stripe_side))

    async def verify_again() -> None:
        """Until Stripe is asked: the end of the last check's lease is written some time after the check."""
        before = await stripe_side.calls(READ_INVOICE)

        async def asked() -> bool:
            await Invoice.all().update(next_check_at=now(), lease_expires_at=None)
            await paidup.services.reconciler.due.invoices()
            return await stripe_side.calls(READ_INVOICE) > before

        await wait_until(asked)

    await verify_again()  # the refusal of the first read may not have been answered yet
    asked = await stripe_side.calls(READ_INTENT)
    for _ in range(2):
        await verify_again()
    assert await stripe_side.calls(READ_INTENT) == asked <= 2
    await decide(stripe_side, purchase)
    await verify_again()
    await wait_until(lambda: _is_credited(ada))


@pytest.mark.parametrize(("outcome", "left"), [("succeeded", 1700), ("failed", -300)])
async def test_credits_on_trust_are_spent_while_the_bank_decides(
    world: World, stripe_side: StripeSide, tmp_path: Path, outcome: str, left: int
) -> None:
    """S44: by policy, up to its limit; then the payment's credits replace them, or they are taken back."""
    plans = tmp_path / "plans.toml"
    plans.write_bytes(PACKAGED_PLANS.read_bytes() + b"\n[trust]\nus_bank_account = 500\n")
    paidup = await world.server(plans_file=plans)
    ada, purchase = await debit(paidup, stripe_side)
    shown = await status_now(ada, purchase)
    assert (shown["processing"]["credits_on_trust"], shown["credits_granted"]) == (500, 0)
    assert shown["balance"] == 500
    assert (await ada.spend(300, "early"))[0] == 200
    await decide(stripe_side, purchase, outcome)
    await wait_until(lambda: _balance_is(ada, left))
    status, _ = await ada.spend(1, "later")
    assert status == (200 if left > 0 else 402)
    await assert_books_balance(grants=1 if left > 0 else 0)


async def test_a_card_that_is_processing_promises_no_date(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S44: only a method that takes days has a date; a card in processing keeps the general words."""
    await stripe_side.conditions(processing_ms=600_000)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(purchase) as socket:
        told = await status_with(socket, status="processing")
    assert told["processing"] is None


async def _was_read(stripe_side: StripeSide) -> bool:
    return await stripe_side.calls(READ_INTENT) > 0


async def test_a_renewal_by_debit(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S44: a renewal that is processing for days is no failure either, and credits once it is paid."""
    ada, purchase = await debit(paidup, stripe_side)
    await decide(stripe_side, purchase)
    await wait_until(lambda: _is_credited(ada))
    subscription = (await stripe_side.api("GET", "subscriptions"))["data"][0]
    await stripe_side.control(f"subscriptions/{subscription['id']}/renew")
    renewed = await stripe_side.api("GET", f"subscriptions/{subscription['id']}")
    renewal = {"invoice": renewed["latest_invoice"]}
    await wait_until(lambda: _is_processing(renewal["invoice"]))
    _, account = await ada.call("GET", "/api/account")
    assert account["activating"]["status"]["processing"]["name"] == "ACH Direct Debit"
    intent = (await Invoice.get(id=renewal["invoice"])).payment_intent
    await stripe_side.control(f"payment_intents/{intent}/decide")
    await wait_until(lambda: _balance_is(ada, 4000))
    await assert_books_balance(grants=2)


async def _is_processing(invoice: str) -> bool:
    return await Invoice.exists(id=invoice, status="processing", payment_method="us_bank_account")


async def _balance_is(customer: Customer, credits: int) -> bool:
    return await customer.balance() == credits


async def test_another_presentment_currency_is_credited_the_same(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S45: Adaptive Pricing shows the customer another currency; credits and refunds are the price's."""
    await stripe_side.conditions(presentment_currency="eur")
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    await wait_until(lambda: _is_credited(ada))
    intent = purchase["client_secret"].partition("_secret_")[0]
    paid = await stripe_side.api("GET", f"payment_intents/{intent}")
    assert (paid["currency"], paid["amount_received"]) == ("usd", 2900)
    assert paid["presentment_details"] == {"presentment_amount": 2610, "presentment_currency": "eur"}
    await stripe_side.api("POST", "refunds", payment_intent=intent, amount=1450)
    await wait_until(lambda: _balance_is(ada, 1000))
    await assert_books_balance(grants=1)


async def test_a_plan_that_was_never_paid_grants_nothing(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S46: incomplete, incomplete_expired, and active while its debit is processing: no credits."""
    ada = paidup.customer("ada")
    unpaid = await ada.buy("pro")
    await stripe_side.confirm(unpaid["client_secret"], "pm_card_chargeDeclined")
    await wait_until(lambda: _has_failed(ada, unpaid))
    (subscription,) = (await stripe_side.api("GET", "subscriptions"))["data"]
    assert (subscription["status"], await ada.balance()) == ("incomplete", 0)
    await stripe_side.control("clock", {"advance_seconds": 24 * 3600})
    await wait_until(lambda: _is_void(ada, unpaid))
    assert await ada.balance() == 0
    debited, _ = await _debit_of(paidup, stripe_side, "bob")
    (subscription,) = (await stripe_side.api("GET", "subscriptions?status=active"))["data"]
    assert (subscription["status"], await debited.balance()) == ("active", 0)
    status, _ = await debited.spend(1, "early")
    assert status == 402
    await assert_books_balance(grants=0)


async def _is_void(customer: Customer, purchase: Any) -> bool:
    return bool((await status_now(customer, purchase))["status"] == "void")


async def _debit_of(paidup: Paidup, stripe_side: StripeSide, name: str) -> tuple[Customer, Any]:
    customer = paidup.customer(name)
    purchase = await customer.buy("pro")
    await stripe_side.confirm(purchase["client_secret"], SUCCEEDS)
    await wait_until(lambda: _is_processing(purchase["invoice"]))
    return customer, purchase
