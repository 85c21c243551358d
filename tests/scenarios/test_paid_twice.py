"""A purchase that was paid twice all the same: flagged within a minute, shown, and remedied (S39)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import Conflict, NotFound
from paidup.operations.checkout_report import sessions_of
from paidup.operations.explain import explain
from paidup.operations.overview import load_overview
from paidup.operations.second_payments import Remedy, Resolved, SecondPaymentRemedies
from paidup.payments.refunds import ReversalHandler
from paidup.reconciliation.alarms import take_snapshot
from paidup.runtime.clock import now
from tests.support.checkout_shop import EXTRA, CheckoutShop, linked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup
from tests.support.waiting import wait_until

NAMED: dict[str, Any] = {"client_reference_id": "ada", "subscription_data[metadata][paidup_account]": "ada"}


async def sweep(paidup: Paidup) -> None:
    assert await paidup.services.reconciler._sweeps["second_payments"][0]() >= 0


async def resolve(paidup: Paidup, session: str, remedy: Remedy) -> Resolved:
    services = paidup.services
    reversals = ReversalHandler(services.gateway, services.verification, services.settlement)
    return await SecondPaymentRemedies(services.gateway, reversals).resolve(session, remedy)


async def alarms() -> list[str]:
    return [alarm.name for alarm in (await take_snapshot()).alarms]


async def two_subscriptions(paidup: Paidup, shop: CheckoutShop) -> list[str]:
    """Two pages that the SaaS has made with its own key, both paid: Stripe lets it happen."""
    await paidup.customer().balance()
    sessions = [await shop.open(**NAMED) for _ in range(2)]
    for session, balance in zip(sessions, (2000, 4000), strict=True):
        await shop.pay(session)
        await linked(session)
        await wait_until(partial(Account.exists, external_id="ada", balance=balance))
    return sessions


async def test_a_second_subscription_is_flagged_and_shown_everywhere(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S39: both are credited (S40); the second one is named, and only that."""
    first, second = await two_subscriptions(paidup, shop)
    await asyncio.gather(*(sweep(paidup) for _ in range(3)))
    rows = {row.id: row.duplicate_of for row in await CheckoutSession.all()}
    kept = (await CheckoutSession.get(id=first)).subscription
    assert rows == {first: None, second: kept}
    assert await alarms() == ["paid_twice"]
    status, account = await paidup.customer().call("GET", "/api/account")
    assert (status, [each["checkout"] for each in account["paid_twice"]]) == (200, [second])
    assert [each.checkout for each in (await load_overview([])).second_payments] == [second]
    explained = await explain(second)
    assert [(each.checkout, each.duplicate_of) for each in explained.sessions] == [(second, kept)]
    assert [report.invoice for report in explained.invoices] == [explained.sessions[0].invoice]
    await assert_books_balance()


async def test_a_refund_ends_the_second_subscription_and_takes_its_credits_back(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    _, second = await two_subscriptions(paidup, shop)
    await sweep(paidup)
    done = await resolve(paidup, second, Remedy.REFUND)
    assert (done.resolution, done.refund is not None) == ("refunded", True)
    assert (await resolve(paidup, second, Remedy.REFUND)).resolution == "refunded"
    with pytest.raises(Conflict):
        await resolve(paidup, second, Remedy.KEEP)
    row = await CheckoutSession.get(id=second)
    ended = await shop.stripe.api("GET", f"subscriptions/{row.subscription}")
    assert ended["status"] == "canceled"
    assert (await Invoice.get(id=row.invoice)).status is InvoiceStatus.REVERSED
    assert await paidup.customer().balance() == 2000
    await sweep(paidup)
    assert await alarms() == []
    await assert_books_balance()


async def test_credits_may_be_left_to_the_customer_without_another_charge(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    _, second = await two_subscriptions(paidup, shop)
    await sweep(paidup)
    assert (await resolve(paidup, second, Remedy.CREDIT)).resolution == "credited"
    row = await CheckoutSession.get(id=second)
    ending = await shop.stripe.api("GET", f"subscriptions/{row.subscription}")
    assert (ending["status"], ending["cancel_at_period_end"]) == ("active", True)
    await sweep(paidup)
    assert (await alarms(), await paidup.customer().balance()) == ([], 4000)


async def test_a_card_payment_beside_a_page_is_flagged_whichever_was_first(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S39: the page was made elsewhere, so Paidup could not close it before it sold the subscription."""
    ada = paidup.customer()
    session = await shop.open(**NAMED)
    purchase = await ada.buy()
    await shop.stripe.confirm(purchase["client_secret"])
    await wait_until(lambda: Account.exists(external_id="ada", balance=2000))
    await shop.pay(session)
    await linked(session)
    await sweep(paidup)
    bought = await Invoice.get(id=purchase["invoice"])
    assert (await CheckoutSession.get(id=session)).duplicate_of == bought.subscription


async def test_a_subscription_that_is_claimed_beside_another_is_flagged(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S39, S42: it was paid days ago, and belonged to nobody until now."""
    session = await shop.open()
    await shop.pay(session)
    await wait_until(lambda: CheckoutSession.exists(id=session, status="complete"))
    await CheckoutSession.filter(id=session).update(completed_at=now() - timedelta(days=9))
    ada = paidup.customer()
    purchase = await ada.buy()
    await shop.stripe.confirm(purchase["client_secret"])
    await wait_until(lambda: Account.exists(external_id="ada", balance=2000))
    await paidup.services.claims.claim(session, await Account.get(external_id="ada"))
    await linked(session)
    await sweep(paidup)
    bought = await Invoice.get(id=purchase["invoice"])
    assert (await CheckoutSession.get(id=session)).duplicate_of == bought.subscription


async def test_a_top_up_that_replaced_another_is_flagged_if_both_are_paid(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S39, S40: two requests at once; the older page was paid before it could be expired.

    The other by a debit, which took days.
    """
    await paidup.customer().balance()
    sessions = [await shop.open(EXTRA, client_reference_id="ada") for _ in range(3)]
    for session in sessions:
        await paidup.services.checkouts.verify(session)
    for older, newer in pairwise(sessions):
        await CheckoutSession.filter(id=older).update(superseded_by=newer, next_check_at=None)
    await shop.pay(sessions[0])
    await linked(sessions[0])
    await sweep(paidup)
    assert await CheckoutSession.filter(duplicate_of__not_isnull=True).count() == 0
    await shop.pay(sessions[2])
    await linked(sessions[2])
    await CheckoutSession.filter(completed_at__not_isnull=True).update(completed_at=now() - timedelta(days=5))
    await sweep(paidup)
    flagged = await CheckoutSession.get(duplicate_of__not_isnull=True)
    assert (flagged.id, flagged.duplicate_of) == (sessions[0], sessions[2])
    assert (await resolve(paidup, flagged.id, Remedy.REFUND)).resolution == "refunded"
    assert await paidup.customer().balance() == 1000


async def test_two_top_ups_that_were_both_wanted_alarm_nobody(paidup: Paidup, shop: CheckoutShop) -> None:
    for _ in range(2):
        status, made = await paidup.customer().call("POST", "/api/checkout", {"top_up": "extra"})
        assert status == 201, made
        await shop.pay(made["checkout"])
        await linked(made["checkout"])
    await sweep(paidup)
    assert await alarms() == []
    with pytest.raises(NotFound):
        await resolve(paidup, made["checkout"], Remedy.REFUND)


async def test_an_open_page_of_a_subscriber_is_closed(paidup: Paidup, shop: CheckoutShop) -> None:
    """S39: they have subscribed by a Payment Link, say; nobody has asked Paidup for anything since."""
    _, made = await paidup.customer().call("POST", "/api/checkout", {"plan": "pro"})
    other = await shop.open(**NAMED)
    await shop.pay(other)
    row = await linked(other)
    await paidup.services.subscriptions.read(row.subscription or "")
    await sweep(paidup)
    await paidup.services.reconciler.sessions.sweep()
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert shown["status"] == "expired"
    (details,) = await sessions_of(made["checkout"])
    assert details.superseded_by == "subscribed"
