"""Keeps in each account's row which subscriptions it has, so that one row answers what a customer may use.

Written in the transaction that changes a subscription, or credits an invoice of one, on the locked account.
The account's version grows where the answer changes. None in the column: not computed yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from paidup.credits import ledger
from paidup.credits.grants import CHANGE
from paidup.db.connection import repeatable, write_transaction
from paidup.db.models import Account, Invoice, Subscription
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.entitlements import KnownSubscription, PaidInvoiceOf, Standing, after_payment, standing_of
from paidup.payments.current_subscriptions import known_subscriptions


def known_of(account: Account) -> tuple[KnownSubscription, ...] | None:
    """The subscriptions that the account's row has; None where they are not in it yet."""
    kept = account.known_subscriptions
    return None if kept is None else msgspec.convert(kept, tuple[KnownSubscription, ...])


async def refresh(account: Account, since: int | None = None) -> bool:
    """Write the account's subscriptions to its locked row. True where what they give has changed.

    Its version grows then, unless it has grown in this transaction, which began with the version `since`.
    """
    known, before = to_known(await known_subscriptions(account.id)), known_of(account)
    if before == known:
        return False
    changed = _replace(account, known, since)
    await account.save(update_fields=["known_subscriptions", "version"])
    return changed


def _replace(account: Account, known: tuple[KnownSubscription, ...], since: int | None) -> bool:
    before = known_of(account)
    changed = before is not None and standing_of(before) != standing_of(known)
    account.known_subscriptions = _to_json(known)
    if changed and since in (None, account.version):
        account.version += 1
    return changed


async def is_outdated(account: Account) -> bool:
    """Whether the account's row has other subscriptions than it has; not where it has none yet."""
    known = known_of(account)
    return known is not None and known != to_known(await known_subscriptions(account.id))


async def standing(account: Account) -> Standing:
    """What the account's subscriptions give: from its row, which is completed where it has none yet."""
    known = known_of(account)
    if known is None:
        await _complete(account.id)
        await account.refresh_from_db()
        known = known_of(account) or ()
    return standing_of(known)


@repeatable
async def _complete(account_id: int) -> None:
    async with write_transaction():
        await refresh(await ledger.lock_account(account_id))


def follows_from_row(account: Account, row: Invoice) -> bool:
    """Whether `add_payment` can be told from the account's row alone."""
    known = known_of(account)
    return row.subscription is None or (
        known is not None and any(one.id == row.subscription for one in known)
    )


def add_payment(account: Account, row: Invoice, writes: UnitOfWork) -> None:
    """An invoice of one of the account's subscriptions is credited: `refresh`, without reading anything.

    The version grows with the invoice's entry.
    """
    known = known_of(account)
    if known is None or row.subscription is None:
        return
    changes_plan = row.billing_reason == CHANGE
    paid = PaidInvoiceOf(row.id, row.subscription, row.plan, row.total_minor > 0, changes_plan)
    changed = after_payment(known, paid)
    if changed != known:
        account.known_subscriptions = _to_json(changed)
        writes.update(account, "known_subscriptions")


def is_only(account: Account, subscription: str) -> bool:
    """Whether the account's row has this subscription, and no other."""
    known = known_of(account)
    return known is not None and [one.id for one in known] == [subscription]


def add_beginning(account: Account, row: Subscription, since: int, writes: UnitOfWork) -> bool:
    """The account's only subscription has begun: `refresh`, without reading anything."""
    assert row.status != "incomplete", "its credited invoices would say more of it"
    assert row.pending_plan is None, "its credited invoices would say more of it"
    changed = _replace(account, to_known([row]), since)
    writes.update(account, "known_subscriptions", "version")
    return changed


def to_known(rows: Sequence[Subscription]) -> tuple[KnownSubscription, ...]:
    return tuple(
        KnownSubscription(
            id=row.id,
            status=row.status,
            plan=row.plan,
            pending_plan=row.pending_plan,
            latest_invoice=row.latest_invoice,
            quantity=row.quantity,
            current_period_end=row.current_period_end,
            cancel_at=row.cancel_at,
        )
        for row in rows
    )


def _to_json(known: tuple[KnownSubscription, ...]) -> Any:
    return msgspec.to_builtins(known)
