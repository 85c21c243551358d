"""What one statement reads of an account's credits, and what it says of a renewal."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from paidup.credits import moves
from paidup.db.connection import is_sqlite, write_transaction
from paidup.db.models import Account, CreditGrant, GrantState, Subscription
from paidup.domain.decisions import InvoiceStatus
from paidup.runtime.clock import now
from paidup.subscriptions.credit_reads import AccountCredits, read_credits
from tests.support.factories import an_account, an_invoice, granted

AT = now()
DAY = timedelta(days=1)


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


async def read(account: Account) -> AccountCredits:
    (found,) = await read_credits([account.external_id])
    assert found is not None
    return found


async def test_accounts_are_read_with_their_grants_as_they_are(database: None) -> None:
    """In the order in which they are spent, with times in UTC wherever the database's session is."""
    ada, bob = await an_account(), await an_account("bob")
    for expires_at in (None, AT + 9 * DAY, AT + 2 * DAY):
        await granted(ada, 100, expires_at)
    await CreditGrant.filter(account_id=ada.id, expires_at=None).update(unit="images", plan="pro")
    for ended in (GrantState.EXPIRED, GrantState.PLANNED):
        await granted(ada, 7)
        await CreditGrant.filter(account_id=ada.id, credits=7, state=GrantState.LIVE).update(state=ended)
    await granted(ada, 8)
    await CreditGrant.filter(account_id=ada.id, credits=8).update(remaining=0)
    await Account.filter(id=ada.id).update(unit_balances={"images": {"balance": 100}})
    async with write_transaction() as db:
        if not is_sqlite(db):
            await db.execute_query("SET LOCAL TIME ZONE 'Asia/Tokyo'")
        of_ada, of_nobody, of_bob = await read_credits([ada.external_id, "nobody", bob.external_id])
    assert of_nobody is None
    assert of_ada is not None
    assert of_bob is not None
    assert values(of_ada.account) == values(await Account.get(id=ada.id))
    live = await CreditGrant.filter(account_id=ada.id, credits=100)
    assert [values(each) for each in of_ada.grants] == [
        values(each) for each in sorted(live, key=moves.spending_order)
    ]
    assert of_ada.grants[0].expires_at == AT + 2 * DAY
    assert of_ada.grants[0].expires_at.utcoffset() == timedelta()
    assert (of_bob.account.id, of_bob.grants) == (bob.id, [])


def values(row: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if not name.startswith("_")}


async def test_an_unpaid_invoice_may_be_awaited(database: None) -> None:
    ada = await an_account()
    invoice = await an_invoice(ada, status=InvoiceStatus.ACTIVE)
    assert not (await read(ada)).has_unpaid
    await type(invoice).filter(id=invoice.id).update(status=InvoiceStatus.FAILED)
    assert (await read(ada)).has_unpaid


async def test_a_renewal_may_be_under_way_once_the_newest_paid_period_is_over(database: None) -> None:
    ada = await an_account()
    subscription = await Subscription.create(id=f"sub_{ada.id}", account_id=ada.id, status="active")
    assert not (await read(ada)).may_renew(AT), "nothing of it was ever paid"
    for ended, days in ((-30, 0), (0, 30)):
        await an_invoice(
            ada,
            subscription=subscription.id,
            finalized_at=AT + ended * DAY,
            settled_at=AT + ended * DAY,
            status=InvoiceStatus.ACTIVE,
            quote=a_quote(AT + days * DAY),
        )
    found = await read(ada)
    assert [found.may_renew(AT + days * DAY) for days in (0, 29, 31)] == [False, False, True]
    # One from before quotes were stored, or that is unpaid, says nothing of what was paid.
    await an_invoice(
        ada, subscription=subscription.id, settled_at=AT, status=InvoiceStatus.ACTIVE, finalized_at=None
    )
    assert (await read(ada)).may_renew(AT + 31 * DAY)
    await an_invoice(ada, subscription=subscription.id, finalized_at=AT + DAY, quote=a_quote(AT + 60 * DAY))
    assert (await read(ada)).may_renew(AT + 31 * DAY)
    await Subscription.filter(id=subscription.id).update(status="canceled")
    assert not (await read(ada)).may_renew(AT + 31 * DAY), "it has ended"


def a_quote(period_end: Any) -> dict[str, Any]:
    part = {
        "plan": "pro",
        "price": "price_1",
        "credits": 5,
        "due_at": [0],
        "period_end": int(period_end.timestamp()),
    }
    return {"credits": 5, "plan": "pro", "price": "price_1", "parts": [part]}
