"""Checkout Sessions made elsewhere: whose they are, what belongs to nobody yet, and how it is claimed."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession, CreditGrant, Invoice, StripeEvent, Subscription
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import Conflict, NotFound
from paidup.payments import checkout_verification
from paidup.payments.claims import Claims
from paidup.reconciliation import completed_sessions
from paidup.reconciliation.alarms import take_snapshot
from paidup.runtime.clock import now
from tests.support.checkout_shop import EXTRA, CheckoutShop, linked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup
from tests.support.unhandled_events import wait_for_event
from tests.support.waiting import wait_until


async def unclaimed(session: str) -> CheckoutSession:
    """The session's row, once it is paid and belongs to nobody."""
    await wait_until(lambda: CheckoutSession.exists(id=session, status="complete", account_id__isnull=True))
    return await CheckoutSession.get(id=session)


async def handle_due_events(paidup: Paidup) -> None:
    await StripeEvent.filter(handled_at__isnull=True).update(next_attempt_at=now())
    await paidup.services.reconciler.due.events()


async def unhandled() -> list[str | None]:
    return [row.error for row in await StripeEvent.filter(handled_at__isnull=True)]


async def granted() -> int:
    return sum(grant.credits for grant in await CreditGrant.all())


async def test_a_session_that_names_nobody_is_kept_and_alarms_nobody(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S41: another e-mail at checkout and no `client_reference_id`."""
    session = await shop.open()
    paid = await shop.pay(session)
    row = await unclaimed(session)
    assert (row.payment_status, row.plan, row.next_check_at) == ("paid", "pro", None)
    event = await StripeEvent.get(type="checkout.session.completed")
    await wait_until(lambda: StripeEvent.exists(id=event.id, handled_at__not_isnull=True))
    await event.refresh_from_db()
    assert event.outcome == "unclaimed"
    for _ in range(20):
        await handle_due_events(paidup)
    waiting = await StripeEvent.filter(handled_at__isnull=True)
    assert {each.error for each in waiting} == {"parked: unclaimed"}
    assert all(each.next_attempt_at and each.next_attempt_at > now() for each in waiting)
    assert (await take_snapshot()).alarms == []
    assert (await Invoice.all().count(), await granted()) == (0, 0)
    assert paid["invoice"].startswith("in_")


async def test_a_claim_credits_at_once_and_the_rest_follows(paidup: Paidup, shop: CheckoutShop) -> None:
    """S41, S42: and what comes of it later is theirs: the subscription, its renewal, a refund."""
    session = await shop.open()
    paid = await shop.pay(session)
    await unclaimed(session)
    ada = await paidup.services.accounts.get("ada")
    await paidup.services.claims.claim(session, ada)
    invoice = await linked(session)
    assert (invoice.id, invoice.account_id, invoice.status) == (
        paid["invoice"],
        ada.id,
        InvoiceStatus.ACTIVE,
    )
    assert await paidup.customer().balance() == 2000
    await wait_until(lambda: Subscription.exists(id=paid["subscription"], account_id=ada.id))
    await paidup.services.reconciler.due.events()
    await wait_until(no_events_wait)
    row = await CheckoutSession.get(id=session)
    assert (row.account_id, row.claimed_at is not None, row.next_check_at) == (ada.id, True, None)
    await paidup.services.claims.claim(session, ada)
    assert await granted() == 2000
    await shop.stripe.control(f"subscriptions/{paid['subscription']}/renew")
    await wait_until(lambda: are_active(ada, 2))
    await assert_books_balance()


async def are_active(account: Account, invoices: int) -> bool:
    active = Invoice.filter(account_id=account.id, status=InvoiceStatus.ACTIVE)
    return await active.count() == invoices


async def no_events_wait() -> bool:
    return not await unhandled()


async def test_two_accounts_that_claim_at_once_are_one_too_many(paidup: Paidup, shop: CheckoutShop) -> None:
    """S41: one gets it, the other hears that it is not theirs."""
    session = await shop.open(EXTRA)
    await shop.pay(session)
    await unclaimed(session)
    accounts = [await paidup.services.accounts.get(name) for name in ("ada", "bob", "eve")]
    claims = [paidup.services.claims.claim(session, account) for account in accounts]
    done = await asyncio.gather(*claims, return_exceptions=True)
    assert [isinstance(each, Conflict) for each in done].count(True) == 2
    winner = accounts[[each is None for each in done].index(True)]
    balances = {account.external_id: account.balance for account in await Account.all()}
    assert balances == {name: 1000 if name == winner.external_id else 0 for name in ("ada", "bob", "eve")}
    await assert_books_balance()


async def test_what_is_not_paid_cannot_be_claimed(deaf: Paidup, shop: CheckoutShop) -> None:
    session = await shop.open(EXTRA)
    ada = await deaf.services.accounts.get("ada")
    with pytest.raises(NotFound):
        await deaf.services.claims.claim(session, ada)
    await deaf.services.checkouts.verify(session)
    with pytest.raises(Conflict):
        await deaf.services.claims.claim(session, ada)
    assert await granted() == 0


async def test_who_signs_up_later_gets_what_names_them(paidup: Paidup, shop: CheckoutShop) -> None:
    """S42: paid before signing up, with the id that the SaaS has chosen already."""
    sessions = [await shop.open(client_reference_id="ada"), await shop.open(EXTRA, client_reference_id="ada")]
    for session in sessions:
        await shop.pay(session)
        await unclaimed(session)
    assert await paidup.customer("bob").balance() == 0
    assert await paidup.customer().balance() == 3000
    assert await paidup.customer().balance() == 3000
    own = await Account.get(external_id="ada")
    assert await CheckoutSession.filter(account_id=own.id).count() == 2
    await assert_books_balance()


async def test_an_account_made_while_its_session_was_read_gets_it(deaf: Paidup, shop: CheckoutShop) -> None:
    """S42: it looked for sessions before this one was kept, which had been read before the account was."""
    session = await shop.open(EXTRA, client_reference_id="ada")
    await shop.pay(session)
    await deaf.services.checkouts.verify(session)
    await Account.create(external_id="ada")
    assert await deaf.services.reconciler.sessions.adopt_named() == 1
    assert await deaf.customer().balance() == 1000
    assert await deaf.services.reconciler.sessions.adopt_named() == 0


async def test_a_claim_whose_process_died_is_settled_by_the_reconciler(
    deaf: Paidup, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S20: it died between the session's transaction and the settlement."""
    session = await shop.open(EXTRA)
    await shop.pay(session)
    await deaf.services.checkouts.verify(session)
    ada = await deaf.services.accounts.get("ada")

    async def dies(*_: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as dying:
        dying.setattr(Claims, "_settle", dies)
        with pytest.raises(asyncio.CancelledError):
            await deaf.services.claims.claim(session, ada)
    assert await granted() == 0
    assert await deaf.services.reconciler.sessions.sweep() == 1
    assert await deaf.customer().balance() == 1000


async def test_a_refund_before_the_claim_leaves_nothing(paidup: Paidup, shop: CheckoutShop) -> None:
    """S18, S25: its event is kept until the session has an owner."""
    session = await shop.open(EXTRA)
    paid = await shop.pay(session)
    await unclaimed(session)
    await shop.stripe.api("POST", "refunds", payment_intent=paid["payment_intent"])
    await wait_for_event(paidup, type="refund.created", error="parked: unclaimed")
    ada = await paidup.services.accounts.get("ada")
    await paidup.services.claims.claim(session, ada)
    await paidup.services.reconciler.due.events()
    await wait_until(lambda: Invoice.exists(id=session, status=InvoiceStatus.REVERSED))
    assert await paidup.customer().balance() == 0
    assert (await take_snapshot()).alarms == []
    await assert_books_balance()


async def test_the_renewal_of_what_nobody_has_claimed_is_credited_with_it(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S42: they sign up in the second month."""
    session = await shop.open()
    paid = await shop.pay(session)
    await unclaimed(session)
    await shop.stripe.control(f"subscriptions/{paid['subscription']}/renew")
    await wait_until(two_invoices_paid)
    await handle_due_events(paidup)
    ada = await paidup.services.accounts.get("ada")
    await paidup.services.claims.claim(session, ada)
    await paidup.services.reconciler.due.events()
    await wait_until(lambda: are_active(ada, 2))
    await wait_until(no_events_wait)
    await assert_books_balance()


async def two_invoices_paid() -> bool:
    return await StripeEvent.filter(type="invoice.paid").count() == 2


async def test_a_list_finds_a_session_of_which_nothing_was_heard(deaf: Paidup, shop: CheckoutShop) -> None:
    """S02: a Payment Link, and every event was lost."""
    await Account.create(external_id="ada")
    named, other = await shop.open(client_reference_id="ada"), await shop.open(EXTRA)
    for session in (named, other):
        await shop.pay(session)
    assert await deaf.services.reconciler.lists.completed_sessions() == 2
    assert await deaf.customer().balance() == 2000
    await unclaimed(other)


async def test_a_list_reads_what_another_product_sold_once(deaf: Paidup, shop: CheckoutShop) -> None:
    """S52: and what was sold before this installation was is not read at all."""
    book = await shop.stripe.api(
        "POST", "prices", currency="usd", unit_amount="900", **{"product_data[name]": "A book"}
    )
    session = await shop.open(EXTRA, **{"line_items[0][price]": book["id"]})
    await shop.pay(session)
    scan = deaf.services.reconciler.lists._sessions
    for _ in range(3):
        assert await scan._handle_page(0, None) == (0, session, False)
    assert await shop.reads() == 1
    assert await CheckoutSession.all().count() == 0


async def test_what_names_a_user_who_never_came_is_the_claimants_with_its_renewals(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S41: the subscription's metadata has a mistake, and an operator has made a link."""
    session = await shop.open(**{"subscription_data[metadata][paidup_account]": "adaa"})
    paid = await shop.pay(session)
    row = await unclaimed(session)
    assert row.client_reference == "adaa"
    ada = await paidup.services.accounts.get("ada")
    await paidup.services.claims.claim(session, ada)
    await shop.stripe.control(f"subscriptions/{paid['subscription']}/renew")
    await wait_until(two_invoices_paid)
    await handle_due_events(paidup)
    await wait_until(lambda: are_active(ada, 2))
    await wait_until(no_events_wait)
    assert await paidup.customer("adaa").balance() == 0
    await assert_books_balance()


async def test_what_was_paid_before_this_installation_is_credited_to_nobody(
    deaf: Paidup, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S51: an old return address is opened again: the product has given those credits out itself."""
    await Account.create(external_id="ada")
    session = await shop.open(client_reference_id="ada")
    await shop.pay(session)

    async def tomorrow() -> datetime:
        return now() + timedelta(days=1, minutes=1)

    monkeypatch.setattr(checkout_verification, "installed_at", tomorrow)
    monkeypatch.setattr(completed_sessions, "installed_at", tomorrow)
    status, _ = await deaf.get(f"/api/checkout/{session}")
    assert status == 404
    assert await deaf.services.reconciler.lists.completed_sessions() == 0
    assert (await CheckoutSession.all().count(), await granted()) == (0, 0)
