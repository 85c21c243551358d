"""An operator says whose a Stripe customer is: link and unlink, each of which undoes the other.

A link says whose its later payments are, and those whose events wait for an account. What an account has
already (invoices, credits, subscriptions) stays its own.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import partial

from paidup.db.connection import write_transaction
from paidup.db.customers import account_id_of, link_customer, unlink_customer
from paidup.db.models import Account, Action, StripeEvent
from paidup.errors import Conflict, InvalidInput
from paidup.operations.audit_log import (
    Corrected,
    Instruction,
    Request,
    done_before,
    locked_account,
    once,
    record,
    request,
)
from paidup.payments.outcomes import EventOutcome
from paidup.runtime.clock import now

CUSTOMER_ID = re.compile(r"cus_[A-Za-z0-9_]{1,200}")
WAITING = f"parked: {EventOutcome.UNKNOWN_CUSTOMER}"
"""The `error` of an event whose customer belongs to no account."""


async def link(customer: str, account: str, instruction: Instruction) -> Corrected:
    """Link a customer of nobody's. The events that wait for its account are handled again at once.

    Raises NotFound, InvalidInput, Conflict where it is another account's, StorageUnavailable.
    """
    return await _once(_request(Action.LINK, customer, account, instruction), customer, account, now())


async def unlink(customer: str, account: str, instruction: Instruction) -> Corrected:
    """Undo a link. The next purchase of the account makes a customer, unless it has another."""
    return await _once(_request(Action.UNLINK, customer, account, instruction), customer, account, now())


def _request(action: Action, customer: str, account: str, instruction: Instruction) -> Request:
    if not CUSTOMER_ID.fullmatch(customer):
        raise InvalidInput("A Stripe customer's id begins with cus_.")
    return request(action, instruction, customer=customer, account=account)


@once
async def _once(wanted: Request, customer: str, name: str, at: datetime) -> Corrected:
    async with write_transaction():
        if done := await done_before(wanted):
            return done
        account = await locked_account(name)
        owner = await account_id_of(customer)
        change = partial(_unlink if wanted.action is Action.UNLINK else _link, customer, account, owner, at)
        woken = await change()
        states: list[dict[str, object]] = [{"account": None}, {"account": account.id}]
        before, after = states if wanted.action is Action.LINK else reversed(states)
        details = {"customer": customer, "events_woken": woken}
        return await record(wanted, account, at, before, after, details)


async def _link(customer: str, account: Account, owner: int | None, at: datetime) -> int:
    if owner == account.id:
        raise Conflict(f"{customer} is this account's already.")
    if owner is not None or not await link_customer(account.id, customer):
        raise Conflict(f"{customer} belongs to another account. Unlink it there first.")
    waiting = StripeEvent.filter(handled_at__isnull=True, error=WAITING)
    return await waiting.filter(payload__contains=f'"{customer}"').update(next_attempt_at=at)


async def _unlink(customer: str, account: Account, owner: int | None, at: datetime) -> int:
    if owner != account.id:
        raise Conflict(f"{customer} is not this account's.")
    await unlink_customer(account.id, customer)
    return 0
