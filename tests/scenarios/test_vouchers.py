"""Vouchers (Boleto): paid days later at a bank; shown as such, never as failed, and never paid twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from paidup.db.models import Account, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.operations.explain import explain
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.checkout_shop import linked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.vouchers import BOLETO, NEVER, decide, get_boleto, plans_in_reais
from tests.support.waiting import wait_until

LAST_DAY = timedelta(days=3)


@pytest.fixture
async def plans_file(stripe_side: StripeSide, tmp_path: Path) -> Path:
    return await plans_in_reais(stripe_side, tmp_path)


@pytest.fixture
async def brasil(world: World, plans_file: Path) -> Paidup:
    return await world.server(plans_file=plans_file)


async def with_voucher(paidup: Paidup, stripe_side: StripeSide) -> tuple[Customer, Any]:
    """A customer who has got a Boleto for their plan, once the server knows."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    confirmed = await get_boleto(stripe_side, purchase)
    assert confirmed["status"] == "requires_action", confirmed
    async with ada.watch(purchase) as socket:
        await status_with(socket, status="processing")
    return ada, purchase


async def shown_to(customer: Customer, purchase: Any) -> Any:
    return (await customer.call("GET", f"/api/invoices/{purchase['invoice']}"))[1]


def last_day() -> date:
    """Three days from now, in São Paulo: https://docs.stripe.com/payments/boleto/accept-a-payment"""
    return (datetime.now(UTC) + LAST_DAY).astimezone(timezone(timedelta(hours=-3))).date()


@pytest.mark.parametrize("webhooks", [True, False])
async def test_a_voucher_says_until_when_and_where_to_pay_it(
    world: World, plans_file: Path, stripe_side: StripeSide, webhooks: bool
) -> None:
    """S44: no check by the bank, and no failure, but a voucher that is to be paid; then it is credited."""
    paidup = await world.server(plans_file=plans_file, webhooks=webhooks)
    before = last_day()
    ada, purchase = await with_voucher(paidup, stripe_side)
    shown = await shown_to(ada, purchase)
    assert (shown["status"], shown["stage"], shown["error"]) == ("processing", "processing", None)
    told = shown["processing"]
    assert (told["method"], told["name"], told["kind"]) == ("boleto", "Boleto", "voucher")
    assert before <= date.fromisoformat(told["pay_by"]) <= last_day()
    assert told["voucher_url"].startswith(stripe_side.url + "/voucher/pi_")
    by = f"{date.fromisoformat(told['pay_by']):%d %B %Y}".lstrip("0")
    assert told["message"].startswith(f"Pay your Boleto voucher by {by}. Your credits are added as soon as")
    status, refused = await ada.spend(1, "too-early")
    assert (status, refused["activating"]["status"]["processing"]["message"]) == (402, told["message"])
    (report,) = (await explain(purchase["invoice"])).invoices
    assert report.recommendation.startswith("Wait: the customer got a Boleto voucher on ")
    await decide(stripe_side, purchase, "succeeded")
    if not webhooks:
        await check_again(paidup)
    async with ada.watch(purchase) as socket:
        paid = await status_with(socket, status="active")
    assert (paid["credits_granted"], paid["processing"]) == (2000, None)
    assert (await Invoice.get()).voucher is None
    await assert_books_balance(grants=1)


async def check_again(paidup: Paidup) -> None:
    await Invoice.all().update(next_check_at=now() - timedelta(seconds=1), lease_expires_at=None)
    assert await paidup.services.reconciler.due.invoices() == 1


async def test_nobody_pays_twice_while_a_voucher_is_open(brasil: Paidup, stripe_side: StripeSide) -> None:
    """S44: the same plan is the same purchase; another plan, and a page of Stripe's, are refused."""
    ada, purchase = await with_voucher(brasil, stripe_side)
    again = await ada.buy("pro")
    assert (again["invoice"], again["status"]["status"]) == (purchase["invoice"], "processing")
    for path, plan in (("/api/subscriptions", "basic"), ("/api/checkout", "pro"), ("/api/checkout", "basic")):
        status, refused = await ada.call("POST", path, {"plan": plan})
        assert (status, refused["type"].rpartition("/")[2]) == (409, "payment-under-way"), (path, plan)
    assert await stripe_side.calls("POST /v1/subscriptions") == 1
    assert await stripe_side.calls("POST /v1/checkout/sessions") == 0


async def test_a_voucher_that_expires_is_a_failure_and_can_be_paid_by_card(
    brasil: Paidup, stripe_side: StripeSide
) -> None:
    """S24: it is told only once Stripe says so. It is no debit that failed: nobody had begun to pay."""
    ada, purchase = await with_voucher(brasil, stripe_side)
    async with ada.watch(purchase) as socket:
        await decide(stripe_side, purchase, "failed")
        failed = await status_with(socket, status="failed")
        while failed["error"]["code"] != "payment_intent_payment_attempt_expired":
            failed = await status_with(socket, status="failed")
        assert failed["error"]["message"] == "The Boleto voucher was not paid in time."
        row = await Invoice.get()
        assert (row.debit_failed, row.voucher) == (False, None)
        again = await ada.buy("pro")
        assert again["client_secret"] == purchase["client_secret"]
        await stripe_side.confirm(again["client_secret"])
        assert (await status_with(socket, status="active"))["credits_granted"] == 2000
    await assert_books_balance(grants=1)


async def test_a_new_voucher_replaces_the_one_that_is_shown(brasil: Paidup, stripe_side: StripeSide) -> None:
    """Confirming again makes new instructions, at a new address, and cancels the former ones."""
    ada, purchase = await with_voucher(brasil, stripe_side)
    later = {**BOLETO, "billing_details": {**BOLETO["billing_details"], "email": "expire_with_delay@a.br"}}
    async with ada.watch(purchase) as socket:
        first = (await status_with(socket, status="processing"))["processing"]
        await stripe_side.confirm_with(purchase["client_secret"], later)
        second = (await status_with(socket, status="processing"))["processing"]
        while second["pay_by"] == first["pay_by"]:
            second = (await status_with(socket, status="processing"))["processing"]
    assert date.fromisoformat(second["pay_by"]) < date.fromisoformat(first["pay_by"])


async def test_a_top_up_with_an_open_voucher_is_never_voided(
    world: World, plans_file: Path, stripe_side: StripeSide
) -> None:
    """S55: its customer may be at the bank. The row may not know of the voucher: what Stripe says counts."""
    deaf = await world.server(plans_file=plans_file, webhooks=False)
    ada = deaf.customer("ada")
    status, purchase = await ada.call("POST", "/api/top-ups", {"plan": "extra", "quantity": 1})
    assert status == 201, purchase
    await get_boleto(stripe_side, purchase)
    old = now() - timedelta(days=2)
    await Invoice.all().update(status=InvoiceStatus.OPEN, finalized_at=old, created_at=old)
    await check_again(deaf)
    assert await stripe_side.calls("POST /v1/invoices/{id}/void") == 0
    row = await Invoice.get()
    assert (row.status, row.payment_method) == (InvoiceStatus.PROCESSING, "boleto")
    assert row.next_check_at is not None
    assert row.next_check_at - now() > timedelta(hours=11)


@pytest.mark.parametrize("sold", ["plan", "top_up"])
async def test_checkout_shows_the_voucher_without_its_address(
    brasil: Paidup, stripe_side: StripeSide, sold: str
) -> None:
    """S44: anybody who has the session's id reads until when to pay, not the page that names the customer."""
    await Account.create(external_id="ada")
    ada = brasil.customer("ada")
    status, made = await ada.call("POST", "/api/checkout", {sold: "pro" if sold == "plan" else "extra"})
    assert status == 201, made
    session = made["checkout"]
    typed = {"email": NEVER, "name": "João da Silva", "payment_method_data": BOLETO}
    paid = await stripe_side.control(f"checkout/{session}/complete", typed)
    assert (paid["status"], paid["payment_status"]) == ("complete", "unpaid")
    row = await linked(session)
    await wait_until(lambda: Invoice.exists(id=row.id, payment_method="boleto"))
    status, shown = await brasil.get(f"/api/checkout/{session}")
    assert (status, shown["stage"], shown["processing"]["kind"]) == (200, "processing", "voucher")
    assert shown["processing"]["voucher_url"] is None
    assert "voucher by" in shown["processing"]["message"]
    async with ada.http.get(f"{brasil.url}/activate?session_id={session}") as page:
        text = await page.text()
    assert '<h1 tabindex="-1">Pay your voucher</h1>' in text
    assert "João" not in text
    await stripe_side.control(f"payment_intents/{paid['payment_intent']}/decide", {"outcome": "succeeded"})
    credits = 2000 if sold == "plan" else 1000
    await wait_until(lambda: _balance_is(ada, credits))
    _, shown = await brasil.get(f"/api/checkout/{session}")
    assert (shown["status"], shown["credits_granted"], shown["processing"]) == ("active", credits, None)
    await assert_books_balance(grants=1)


async def _balance_is(customer: Customer, credits: int) -> bool:
    return await customer.balance() == credits
