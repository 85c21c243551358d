"""Saves that subscriptions have begun, of events that arrive together, by one read and in one transaction.

As `sync.py` does for one of them. For the usual one, the account's only: of any other, or where a row of it
changes meanwhile, nothing is done, and its event is stored first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from tortoise.exceptions import IntegrityError

from paidup.db.connection import repeatable, storage_errors
from paidup.db.models import Account, StripeEvent, Subscription
from paidup.db.shared_writes import VersionedRows, read_versioned, write_unchanged
from paidup.payments import entitlements
from paidup.runtime.batching import BatchExecutor
from paidup.stripe_api.schemas import StripeSubscription
from paidup.subscriptions.announcements import add_changes, state_of
from paidup.subscriptions.sync import BEGUN, SubscriptionSync

MAX_ITEMS = 50
AT_A_TIME = 5
"""Beginnings decided between two turns of the event loop."""
_WANTED = "subscriptions.id = ANY($1) AND accounts.id = subscriptions.account_id"


class _Shown(NamedTuple):
    subscription: StripeSubscription
    event: StripeEvent


class Beginnings:
    def __init__(
        self, subscriptions: SubscriptionSync, publish_balance: Callable[[Account], Awaitable[None]]
    ) -> None:
        self._subscriptions = subscriptions
        self._publish_balance = publish_balance
        self._together = BatchExecutor(self._save, MAX_ITEMS)

    async def __call__(self, shown: StripeSubscription, event: StripeEvent) -> bool:
        """Whether it was saved, with `event` as handled; else nothing was. Raises StorageUnavailable."""
        try:
            saved = await self._together(_Shown(shown, event))
        except IntegrityError:
            return False  # another process has stored the event meanwhile
        if saved is None:
            return False
        account, changed = saved
        if changed:
            await self._publish_balance(account)
        return True

    @repeatable
    async def _save(self, asked: Sequence[_Shown]) -> list[tuple[Account, bool] | None]:
        """Of each that was saved: the account, and whether it has changed."""
        with storage_errors():
            found = await read_versioned(
                _WANTED, [[each.subscription.id for each in asked]], Account, Subscription
            )
            by_id = {rows.rows[1].id: rows for rows in found}
            begun: list[tuple[int, VersionedRows, bool]] = []
            for number, each in enumerate(asked):
                rows = by_id.get(each.subscription.id)
                # None of a second event of one subscription: its row has begun by then.
                changed = self._begin(rows, each) if rows else None
                if rows and changed is not None:
                    begun.append((number, rows, changed))
                if number % AT_A_TIME == 0:
                    await asyncio.sleep(0)
            written = await write_unchanged([rows for _, rows, _ in begun]) if begun else []
        saved: list[tuple[Account, bool] | None] = [None] * len(asked)
        for (number, rows, changed), done in zip(begun, written, strict=True):
            if done:
                saved[number] = rows.rows[0], changed
        return saved

    def _begin(self, rows: VersionedRows, shown: _Shown) -> bool | None:
        """Whether the account changes by it. None, with nothing to write, where more is to be read."""
        account, row = rows.rows
        if not (
            entitlements.is_only(account, row.id) and self._subscriptions.may_begin(row, shown.subscription)
        ):
            return None
        since, before = account.version, state_of(row)
        self._subscriptions.begin(row, shown.subscription)
        if row.pending_plan is not None:
            return None
        rows.writes.update(row, *BEGUN)
        add_changes(rows.writes, account, before, row)
        entitlements.add_beginning(account, row, since, rows.writes)
        rows.writes.insert(shown.event)
        return bool(account.version != since)
