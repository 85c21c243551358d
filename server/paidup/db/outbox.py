"""Writes outbound events, in the transaction that moves the books: none is lost, none tells of a rollback.

The account is locked by the caller, so the ids of its events grow in the order of the commits. Each event has
the account's version: where the account does not change with it, `announce` raises that.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from paidup.db.instances import new_row
from paidup.db.models import Account
from paidup.db.outbound_models import OutboundEvent
from paidup.db.unit_accounts import AnyAccount, account_row
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.outbound_events import OutboundEventType
from paidup.domain.units import DEFAULT_UNIT
from paidup.runtime.clock import now


def add_event(
    writes: UnitOfWork,
    event_type: OutboundEventType,
    account: AnyAccount,
    invoice: str | None = None,
    subscription: str | None = None,
    **facts: Any,
) -> None:
    """Add an event to `writes`, with the account's version and balance as they are now.

    The event's `balance` is always the default unit's, so that a receiver that knows no units has that one
    right. Where the account is passed in another unit, the facts have `unit` and `unit_balance`.
    `facts` are written as JSON; an event of an invoice gets the invoice's subscription when it is sent.
    """
    writes.insert(
        new_row(
            OutboundEvent,
            message=_message(),
            account_id=account.id,
            type=event_type.value,
            invoice=invoice,
            subscription=subscription,
            version=account.version,
            balance=account_row(account).balance,
            data=_plain({**facts, **_of_unit(account)}),
            fanned_out=False,
            created_at=now(),
        )
    )


def _of_unit(account: AnyAccount) -> dict[str, Any]:
    if account.unit == DEFAULT_UNIT:
        return {}
    return {"unit": account.unit, "unit_balance": account.balance}


def announce(
    writes: UnitOfWork,
    event_type: OutboundEventType,
    account: Account,
    invoice: str | None = None,
    subscription: str | None = None,
    **facts: Any,
) -> None:
    """Add an event of something that leaves the balance as it is: the account's version grows with it."""
    account.version += 1
    writes.update(account, "version")
    add_event(writes, event_type, account, invoice, subscription, **facts)


async def save_without_account(event_type: OutboundEventType, **facts: Any) -> None:
    """Save an event of something that belongs to no account yet, in the caller's transaction."""
    event = OutboundEvent(message=_message(), type=event_type.value, data=_plain(facts), created_at=now())
    await event.save(force_create=True)


def _message() -> str:
    return f"msg_{secrets.token_hex(16)}"


def _plain(facts: dict[str, Any]) -> Any:
    """Facts as JSON takes them; those that are not known are left out."""
    return msgspec.to_builtins({name: value for name, value in facts.items() if value is not None})
