"""What an account's row repeats wrongly, after a process of an older release wrote: found, and repaired."""

from __future__ import annotations

from datetime import timedelta

from paidup.credits import ledger, reservations
from paidup.db.connection import write_transaction
from paidup.db.models import Account, Subscription
from paidup.operations.row_repairs import check_rows
from paidup.payments.entitlements import standing
from paidup.runtime.clock import now
from tests.support.factories import an_account, granted


async def test_what_an_older_process_has_left_is_found_and_repaired(database: None) -> None:
    """It reserves without `held`, and keeps subscriptions without the account's row."""
    account, other = await an_account(), await an_account("eve")
    await granted(account, 100)
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        await reservations.reserve(locked, 30, "job", now() + timedelta(hours=1), now())
    for each in (account, other):
        await standing(each)  # written as of now
        await Subscription.create(id=f"sub_{each.id}", account_id=each.id, status="active", plan="pro")
    await Account.filter(id=account.id).update(held=0)
    before = await Account.get(id=account.id)

    subject = f"account {account.external_id}"
    found = {(each.subject, each.what) for each in await check_rows(repair=False)}
    assert found == {
        (subject, "held is 0, its reservations hold 30"),
        (subject, "its row has other subscriptions than it has"),
        (f"account {other.external_id}", "its row has other subscriptions than it has"),
    }
    looked_at = await Account.get(id=account.id)
    assert (looked_at.held, looked_at.version) == (0, before.version), "it was only looked at"
    assert looked_at.known_subscriptions == before.known_subscriptions

    assert {(each.subject, each.what) for each in await check_rows(repair=True)} == found
    repaired = await Account.get(id=account.id)
    assert (repaired.held, repaired.balance) == (30, 70)
    assert repaired.version == before.version + 1, "open pages are told"
    assert (await standing(repaired)).plan == "pro"
    assert await check_rows(repair=False) == []
