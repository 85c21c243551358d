"""Checkout Sessions lead to invoices: by their events, by verification, and by the reconciler."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession, CreditGrant, Invoice, StripeEvent
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.payments.outcomes import Outcome
from paidup.runtime.clock import now
from tests.support.checkout_shop import EXTRA, SEPA, CheckoutShop, linked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup
from tests.support.waiting import wait_until

IN_METADATA: dict[str, Any] = {"metadata[paidup_account]": "ada"}
NAMED: dict[str, Any] = {"subscription_data[metadata][paidup_account]": "ada"}


async def account(name: str = "ada") -> Account:
    return await Account.create(external_id=name)


async def event_of(kind: str) -> StripeEvent:
    """The one event of this type, once it is handled."""
    await wait_until(lambda: StripeEvent.exists(type=kind, handled_at__not_isnull=True))
    return await StripeEvent.get(type=kind)


async def granted() -> int:
    return sum(grant.credits for grant in await CreditGrant.all())


async def test_the_events_of_a_session_credit_once_with_one_read_at_most(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S11: `invoice.paid` and `checkout.session.completed` are for one payment."""
    own = await account()
    session = await shop.open(client_reference_id="ada", **NAMED)
    await shop.pay(session)
    invoice = await linked(session)
    await event_of("checkout.session.completed")
    assert (invoice.status, invoice.account_id) == (InvoiceStatus.ACTIVE, own.id)
    row = await CheckoutSession.get(id=session)
    assert (row.status, row.payment_status, row.plan, row.account_id) == ("complete", "paid", "pro", own.id)
    assert row.next_check_at is None
    assert await granted() == 2000
    assert await shop.reads() <= 1
    await assert_books_balance()


async def test_the_completion_needs_no_call_once_the_invoice_is_settled(
    deaf: Paidup, shop: CheckoutShop
) -> None:
    """Stripe's page waits for this answer: it must not wait for Stripe in turn."""
    await account()
    session = await shop.open(**NAMED)
    paid = await shop.pay(session)
    await deaf.webhook(await shop.event("invoice.paid", paid["invoice"]))
    assert (await Invoice.get(id=paid["invoice"])).status is InvoiceStatus.ACTIVE
    completed = await shop.event("checkout.session.completed", session)
    await shop.stripe.control("calls/reset")
    status, answer = await deaf.webhook(completed)
    assert (status, answer["outcome"]) == (200, "already_settled")
    assert await shop.stripe.calls() == 0
    assert (await linked(session)).id == paid["invoice"]


async def test_the_completion_alone_credits_within_its_answer(deaf: Paidup, shop: CheckoutShop) -> None:
    """S20: every other event is lost."""
    await account()
    session = await shop.open(client_reference_id="ada")
    await shop.pay(session)
    await shop.stripe.control("calls/reset")
    status, answer = await deaf.webhook(await shop.event("checkout.session.completed", session))
    assert (status, answer["outcome"]) == (200, "settled")
    assert await deaf.customer().balance() == 2000
    assert await shop.reads() == 1


async def test_reading_a_session_credits_it_with_one_call(deaf: Paidup, shop: CheckoutShop) -> None:
    """S02: no webhook ever comes. S38: nothing but the session's id is known."""
    own = await account()
    session = await shop.open(client_reference_id="ada")
    checkouts = deaf.services.checkouts
    await checkouts.verify(session)
    await shop.pay(session)
    await CheckoutSession.filter(id=session).update(lease_expires_at=None)
    await shop.stripe.control("calls/reset")
    settled = [each for each in await asyncio.gather(*(checkouts.verify(session) for _ in range(3))) if each]
    assert [each.outcome for each in settled] == [Outcome.SETTLED]
    assert await shop.reads() == 1
    await own.refresh_from_db()
    assert (own.balance, await granted()) == (2000, 2000)
    assert await checkouts.verify(session) is None
    await assert_books_balance()


async def test_a_payment_without_an_invoice_is_credited_by_its_session_and_reversed_with_it(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S25: a guest has no customer and no invoice at Stripe; refund and dispute find the credits."""
    own = await account()
    sessions = [await shop.open(EXTRA, 2, client_reference_id="ada") for _ in range(2)]
    paid = [await shop.pay(session) for session in sessions]
    for session in sessions:
        invoice = await linked(session)
        assert (invoice.id, invoice.customer, invoice.status) == (session, "", InvoiceStatus.ACTIVE)
    await own.refresh_from_db()
    assert own.balance == 4000
    await shop.stripe.api("POST", "refunds", payment_intent=paid[0]["payment_intent"])
    await shop.stripe.control("disputes", {"payment_intent": paid[1]["payment_intent"]})
    await wait_until(lambda: Account.exists(id=own.id, balance=0))
    assert (await Invoice.get(id=sessions[0])).status is InvoiceStatus.REVERSED
    await assert_books_balance()


async def test_a_refund_that_arrives_first_settles_the_session(deaf: Paidup, shop: CheckoutShop) -> None:
    """S18: the refund's event is the first that is heard of the payment."""
    own = await account()
    session = await shop.open(EXTRA, **IN_METADATA)
    paid = await shop.pay(session)
    await shop.stripe.api("POST", "refunds", payment_intent=paid["payment_intent"])
    await deaf.webhook(await shop.event("refund.created"))
    assert (await Invoice.get(id=session)).status is InvoiceStatus.REVERSED
    await own.refresh_from_db()
    assert own.balance == 0
    await assert_books_balance()


@pytest.mark.parametrize("invoiced", ["true", "false"])
async def test_a_bank_debit_is_credited_once_when_it_has_succeeded(
    paidup: Paidup, shop: CheckoutShop, invoiced: str
) -> None:
    """S44: Stripe makes the invoice of a one-time payment only then; until then the session stands for it."""
    session = await open_debit(shop, invoiced)
    paid = await shop.pay(session, payment_method_data=SEPA)
    invoice = await linked(session)
    assert (invoice.id, invoice.status) == (session, InvoiceStatus.PROCESSING)
    await shop.stripe.control(f"payment_intents/{paid['payment_intent']}/decide", {"outcome": "succeeded"})
    await wait_until(lambda: Invoice.exists(id=session, status=InvoiceStatus.ACTIVE))
    await event_of("checkout.session.async_payment_succeeded")
    row = await CheckoutSession.get(id=session)
    assert (row.status, row.payment_status, row.next_check_at) == ("complete", "paid", None)
    # An event of another API version says nothing of it: then the session is read.
    await CheckoutSession.filter(id=session).update(payment_status="unpaid")
    await paidup.services.checkouts.refresh(session, Source.WEBHOOK)
    assert (await CheckoutSession.get(id=session)).payment_status == "paid"
    if invoiced == "true":
        assert (await event_of("invoice.paid")).outcome == "paid_elsewhere"
    assert await granted() == 1000
    await assert_books_balance()


async def test_a_bank_debit_that_fails_is_told_and_grants_nothing(paidup: Paidup, shop: CheckoutShop) -> None:
    """S24: days later; its page is closed, so that it is not waited for any longer (S55)."""
    session = await open_debit(shop, "true")
    paid = await shop.pay(session, payment_method_data=SEPA)
    await linked(session)
    await shop.stripe.control(f"payment_intents/{paid['payment_intent']}/decide", {"outcome": "failed"})
    await event_of("checkout.session.async_payment_failed")
    await wait_until(lambda: Invoice.exists(id=session, status=InvoiceStatus.FAILED))
    assert await granted() == 0


async def open_debit(shop: CheckoutShop, invoiced: str) -> str:
    """A session for 1,000 credits whose price is sold in euros, which a bank debit takes."""
    await account()
    price = await shop.price(EXTRA)
    await shop.stripe.api("POST", f"prices/{price}", **{"currency_options[eur][unit_amount]": "1400"})
    await shop.stripe.conditions(payment_methods=["card", "sepa_debit"])
    form: dict[str, Any] = {"invoice_creation[enabled]": invoiced, "currency": "eur"}
    return await shop.open(EXTRA, client_reference_id="ada", **form)


async def test_the_reconciler_settles_a_session_of_which_nothing_was_heard(
    deaf: Paidup, shop: CheckoutShop
) -> None:
    """S02: the browser was closed, and no webhook comes."""
    own = await account()
    session = await shop.open(client_reference_id="ada")
    await deaf.services.checkouts.verify(session)
    assert (await CheckoutSession.get(id=session)).next_check_at is not None
    await shop.pay(session)
    await make_due(session)
    assert await deaf.services.reconciler.sessions.sweep() == 1
    await own.refresh_from_db()
    assert own.balance == 2000
    assert await deaf.services.reconciler.sessions.sweep() == 0


async def make_due(session: str) -> None:
    past = now() - timedelta(minutes=1)
    await CheckoutSession.filter(id=session).update(next_check_at=past, lease_expires_at=None)


async def test_a_superseded_session_is_expired_by_the_reconciler(deaf: Paidup, shop: CheckoutShop) -> None:
    """S39: the process that wanted to expire it has died."""
    await account()
    session = await shop.open(client_reference_id="ada")
    await deaf.services.checkouts.verify(session)
    await CheckoutSession.filter(id=session).update(superseded_by="cs_test_newer")
    await make_due(session)
    await deaf.services.reconciler.sessions.sweep()
    assert (await shop.stripe.api("GET", f"checkout/sessions/{session}"))["status"] == "expired"
    assert (await CheckoutSession.get(id=session)).status == "expired"


async def test_a_superseded_session_that_is_paid_is_credited(deaf: Paidup, shop: CheckoutShop) -> None:
    """S40: the money was taken, so the credits are due."""
    own = await account()
    session = await shop.open(client_reference_id="ada")
    await deaf.services.checkouts.verify(session)
    await CheckoutSession.filter(id=session).update(superseded_by="cs_test_newer")
    await shop.pay(session)
    await make_due(session)
    await deaf.services.reconciler.sessions.sweep()
    await own.refresh_from_db()
    assert own.balance == 2000
    await assert_books_balance()


async def test_an_expired_session_is_told_and_not_read_again(paidup: Paidup, shop: CheckoutShop) -> None:
    """S46: nothing was paid, and nothing is granted."""
    await account()
    session = await shop.open(client_reference_id="ada")
    await paidup.services.checkouts.verify(session)
    await shop.stripe.api("POST", f"checkout/sessions/{session}/expire")
    await wait_until(lambda: CheckoutSession.exists(id=session, status="expired"))
    before = await shop.reads()
    assert await paidup.services.checkouts.verify(session) is None
    assert await shop.reads() == before
    assert await granted() == 0


async def test_a_session_of_another_product_or_of_another_account_opens_nothing(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S49, S52: it is read once, kept nowhere, and alarms nobody."""
    await account()
    other = await shop.stripe.api(
        "POST", "prices", currency="usd", unit_amount="900", **{"product_data[name]": "A book"}
    )
    form: dict[str, Any] = {"line_items[0][price]": other["id"]}
    session = await shop.open(EXTRA, client_reference_id="ada", **form)
    await shop.pay(session)
    assert (await event_of("checkout.session.completed")).outcome == "irrelevant"
    await shop.stripe.control("calls/reset")
    for unknown in (session, "cs_test_of_another_account", "cs_test_of_another_account"):
        await paidup.services.checkouts.verify(unknown)
    assert await shop.reads() == 1
    assert await CheckoutSession.all().count() == 0
    assert await granted() == 0
