"""The outbound events of subscriptions: what has changed between two reads of one."""

from __future__ import annotations

from paidup.db import outbox
from paidup.db.models import Account, Subscription
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.outbound_events import SubscriptionState, subscription_events


def state_of(row: Subscription) -> SubscriptionState:
    return SubscriptionState(
        row.status,
        row.plan,
        row.quantity,
        row.current_period_end,
        row.cancel_at,
        row.collection_paused,
    )


async def announce_changes(account: Account, before: SubscriptionState, row: Subscription) -> bool:
    """Write the events of a row that was `before`, in its transaction, on a locked account.

    True if there were any: then the account's version has grown, which is to be published.
    """
    version, writes = account.version, UnitOfWork()
    add_changes(writes, account, before, row)
    await writes.send()
    return bool(account.version != version)


def add_changes(writes: UnitOfWork, account: Account, before: SubscriptionState, row: Subscription) -> None:
    """Like `announce_changes`, added to `writes`."""
    after = state_of(row)
    for event_type in subscription_events(before, after):
        outbox.announce(
            writes,
            event_type,
            account,
            row.latest_invoice,
            row.id,
            plan=after.plan,
            quantity=after.quantity,
            status=after.status,
            current_period_end=after.current_period_end,
            cancel_at=after.cancel_at,
            collection_paused=after.collection_paused,
            taken_up=True if row.paid_elsewhere else None,
        )
