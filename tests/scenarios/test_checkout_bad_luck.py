"""Checkout Sessions on a bad day: events before their objects, customers that are gone, addresses of apps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from paidup.db.models import Account, CheckoutSession, Invoice, StripeCustomer, StripeEvent, Subscription
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import StripeRefused
from paidup.operations.explain import explain
from paidup.operations.recommendations import event_recommendation
from paidup.reconciliation.alarms import take_snapshot
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.checkout_shop import EXTRA, PRO, SEPA, CheckoutShop, linked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import ORIGIN, Customer, Paidup
from tests.support.waiting import wait_until

EXAMPLE = "https://app.example.test"


async def opened(customer: Customer, **body: Any) -> Any:
    status, answer = await customer.call("POST", "/api/checkout", body)
    assert status in (200, 201), answer
    return answer


class NotShownYet:
    """Stripe's API, which does not show a session until `shown` is set."""

    def __init__(self, sessions: Any) -> None:
        self._sessions = sessions
        self.shown = False

    async def read(self, session: str, *more: Any, **options: Any) -> Any:
        if not self.shown:
            raise StripeRefused(f"No such checkout.session: {session}", "resource_missing", 404)
        return await self._sessions.read(session, *more, **options)


@pytest.mark.parametrize("asked_before", [True, False])
async def test_an_event_is_not_lost_where_stripe_shows_the_session_later(
    deaf: Paidup, shop: CheckoutShop, asked_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S20: objects may be shown after their events; a browser's read that found none decides nothing."""
    own = await Account.create(external_id="ada")
    session = await shop.open(EXTRA, client_reference_id="ada")
    stripe = NotShownYet(deaf.services.checkouts._sessions)
    monkeypatch.setattr(deaf.services.checkouts, "_sessions", stripe)
    await shop.pay(session)
    if asked_before:
        await deaf.services.checkouts.verify(session)
        stripe.shown = True
    completed = await shop.event("checkout.session.completed", session)
    _, answer = await deaf.webhook(completed)
    if not asked_before:
        assert answer["outcome"] == "postponed"
        stripe.shown = True
        await deaf.services.events.retry(await StripeEvent.get(type="checkout.session.completed"))
    await own.refresh_from_db()
    assert own.balance == 1000
    await assert_books_balance()


async def test_a_payment_whose_invoice_never_comes_alarms_an_operator(
    deaf: Paidup, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S15: the money was taken, and what it is for is said by an invoice that Stripe has not made."""
    own = await Account.create(external_id="ada")
    form: dict[str, Any] = {"client_reference_id": "ada", "invoice_creation[enabled]": "true"}
    session = await shop.open(EXTRA, **form)
    await shop.pay(session)
    read = deaf.services.gateway.checkout_sessions.read

    async def without_invoice(*arguments: Any, **options: Any) -> Any:
        return replace(await read(*arguments, **options), invoice=None)

    with monkeypatch.context() as late:
        late.setattr(deaf.services.gateway.checkout_sessions, "read", without_invoice)
        await deaf.webhook(await shop.event("checkout.session.completed", session))
        assert (await take_snapshot()).alarms == []
        await StripeEvent.all().update(attempts=12)
        event = await StripeEvent.get()
        await deaf.services.events.retry(event)
        assert [alarm.name for alarm in (await take_snapshot()).alarms] == ["events_given_up"]
        (waiting,) = (await explain(session)).other_events
        assert event_recommendation(waiting).startswith("Stripe has made no invoice for this payment")
    await deaf.services.events.retry(event)
    assert (await take_snapshot()).alarms == []
    await own.refresh_from_db()
    assert own.balance == 1000


@pytest.mark.parametrize("event_arrives", [True, False])
async def test_a_session_that_was_thought_to_be_over_is_credited_when_it_is_paid(
    deaf: Paidup, shop: CheckoutShop, event_arrives: bool
) -> None:
    """S40: Stripe once answered that it has no such session, so that it counted as expired."""
    own = await Account.create(external_id="ada")
    session = await shop.open(EXTRA, client_reference_id="ada")
    await deaf.services.checkouts.verify(session)
    await CheckoutSession.filter(id=session).update(status="expired", next_check_at=None)
    await shop.pay(session)
    if event_arrives:
        await deaf.webhook(await shop.event("checkout.session.completed", session))
    else:
        await deaf.services.reconciler.lists.completed_sessions()
    await own.refresh_from_db()
    assert own.balance == 1000


async def test_a_session_that_stripe_has_deleted_is_read_no_more(deaf: Paidup) -> None:
    """S53: "delete all test data"; while it could still be paid, Stripe may only not show it yet (S20)."""
    hour = timedelta(hours=1)
    for name, expires_at, replaced in (
        ("old", -hour, None),
        ("replaced", hour, "cs_1"),
        ("young", hour, None),
    ):
        await CheckoutSession.create(
            id=f"cs_test_{name}",
            mode="payment",
            status="open",
            payment_status="unpaid",
            superseded_by=replaced,
            expires_at=now() + expires_at,
            next_check_at=now() - hour,
            created_at=now() - 2 * hour,
        )
    assert await deaf.services.reconciler.sessions.sweep() == 3
    rows = {row.id: (row.status, row.next_check_at is None) for row in await CheckoutSession.all()}
    gone = ("expired", True)
    assert rows == {"cs_test_old": gone, "cs_test_replaced": gone, "cs_test_young": ("open", False)}


@pytest.mark.parametrize("purchase", [{"plan": "pro"}, {"top_up": "extra"}])
async def test_a_page_whose_customer_was_deleted_is_replaced(
    deaf: Paidup, shop: CheckoutShop, purchase: dict[str, str]
) -> None:
    """S53: nobody can pay it, although Stripe still shows it as open; the event of the deletion was lost."""
    ada = deaf.customer()
    first = await opened(ada, **purchase)
    own = await Account.get(external_id="ada")
    await shop.stripe.api("DELETE", f"customers/{own.stripe_customer}")
    again = await opened(ada, **purchase)
    assert again["checkout"] != first["checkout"]
    assert (await CheckoutSession.get(id=first["checkout"])).status == "expired"
    await shop.pay(again["checkout"])
    await deaf.webhook(await shop.event("checkout.session.completed", again["checkout"]))
    assert (await linked(again["checkout"])).status is InvoiceStatus.ACTIVE


async def test_one_payment_is_credited_once_where_session_and_customer_name_two_accounts(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S11: a bank debit's session stands for it first; then comes the invoice. The customer decides."""
    ada = await Account.create(external_id="ada")
    await opened(paidup.customer("bob"), plan="pro")
    bob = await Account.get(external_id="bob")
    price = await shop.price(EXTRA)
    await shop.stripe.api("POST", f"prices/{price}", **{"currency_options[eur][unit_amount]": "1400"})
    form = {"invoice_creation[enabled]": "true", "currency": "eur", "customer": bob.stripe_customer}
    session = await shop.open(EXTRA, client_reference_id="ada", **form)
    paid = await shop.pay(session, payment_method_data=SEPA)
    await linked(session)
    await shop.stripe.control(f"payment_intents/{paid['payment_intent']}/decide", {"outcome": "succeeded"})
    await wait_until(lambda: Invoice.exists(id=session, status=InvoiceStatus.ACTIVE))
    await wait_until(lambda: StripeEvent.exists(type="invoice.paid", handled_at__not_isnull=True))
    assert (await StripeEvent.get(type="invoice.paid")).outcome == "paid_elsewhere"
    await ada.refresh_from_db()
    await bob.refresh_from_db()
    assert (ada.balance, bob.balance) == (0, 1000)
    await assert_books_balance()


@pytest.mark.parametrize("found_by_list", [False, True])
async def test_a_credit_note_on_the_invoice_that_a_bank_debit_has_made(
    deaf: Paidup, shop: CheckoutShop, found_by_list: bool
) -> None:
    """S25: the session stands for the payment since it was processing; the credit note names the invoice."""
    own = await Account.create(external_id="ada")
    price = await shop.price(EXTRA)
    await shop.stripe.api("POST", f"prices/{price}", **{"currency_options[eur][unit_amount]": "1400"})
    form: dict[str, Any] = {"invoice_creation[enabled]": "true", "currency": "eur"}
    session = await shop.open(EXTRA, client_reference_id="ada", **form)
    paid = await shop.pay(session, payment_method_data=SEPA)
    await deaf.webhook(await shop.event("checkout.session.completed", session))
    assert (await Invoice.get(id=session)).status is InvoiceStatus.PROCESSING
    await shop.stripe.control(f"payment_intents/{paid['payment_intent']}/decide", {"outcome": "succeeded"})
    await deaf.webhook(await shop.event("checkout.session.async_payment_succeeded", session))
    await deaf.webhook(await shop.event("invoice.paid"))
    shown = await shop.stripe.api("GET", f"checkout/sessions/{session}")
    note = {"invoice": shown["invoice"], "amount": "700", "out_of_band_amount": "700"}
    made = await shop.stripe.api("POST", "credit_notes", **note)
    if found_by_list:
        await deaf.services.reconciler.lists.reversals()
    else:
        await deaf.webhook(await shop.event("credit_note.created", made["id"]))
    await own.refresh_from_db()
    assert own.balance == 500
    assert [row.id for row in await Invoice.all()] == [session]
    await assert_books_balance()


async def test_an_app_is_returned_to_by_its_own_scheme_which_stripe_is_not_given(
    world: World, shop: CheckoutShop
) -> None:
    """S38: Stripe's `cancel_url` is an address of the web."""
    app = "capacitor://localhost"
    server = await world.server(allowed_origins=f"{ORIGIN},{app}")
    made = await opened(server.customer(), plan="pro", return_to=f"{app}/done")
    assert (await CheckoutSession.get(id=made["checkout"])).return_to == f"{app}/done"
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert shown["cancel_url"] is None


@pytest.mark.parametrize("lookup_key", [PRO, EXTRA])
async def test_a_stranger_who_pays_for_an_account_does_not_become_its_customer(
    paidup: Paidup, shop: CheckoutShop, lookup_key: str
) -> None:
    """S49: anybody may write any `client_reference_id`. Those who have the customer's email address can log
    in to Stripe's portal as them: the account's own cards must not be saved there.
    """
    own = await Account.create(external_id="ada")
    creation: dict[str, Any] = {} if lookup_key == PRO else {"invoice_creation[enabled]": "true"}
    session = await shop.open(lookup_key, client_reference_id="ada", **creation)
    paid = await shop.pay(session, email="mallory@example.com")
    await linked(session)
    await wait_until(lambda: Account.exists(id=own.id, balance__gt=0))
    assert await StripeCustomer.exists(id=paid["customer"], account_id=own.id)
    later = await shop.stripe.subscribe(paid["customer"])
    await wait_until(lambda: Subscription.exists(id=later["id"]))
    made = await opened(paidup.customer(), top_up="extra")
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert shown["customer"] not in (None, paid["customer"])


async def test_nor_where_the_account_is_made_later(paidup: Paidup, shop: CheckoutShop) -> None:
    """S41: it gets what was paid for it, and no customer of a stranger's."""
    session = await shop.open(client_reference_id="ada")
    paid = await shop.pay(session, email="mallory@example.com")
    await wait_until(lambda: CheckoutSession.exists(id=session, status="complete"))
    made = await opened(paidup.customer(), top_up="extra")
    assert await StripeCustomer.exists(id=paid["customer"], account__external_id="ada")
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert shown["customer"] not in (None, paid["customer"])
