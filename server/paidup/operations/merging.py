"""Merges one account into another: two accounts of one person. All that the first has becomes the other's.

In one transaction, with all locks taken in a fixed order. The merged account stays as a pointer, and the
other one answers for its user id, for good. It cannot be undone: what is spent afterwards comes from both.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tortoise.expressions import Subquery

from paidup.credits import ledger
from paidup.db import outbox
from paidup.db.accounts import find_account
from paidup.db.connection import connection, locked, write_transaction
from paidup.db.models import (
    Account,
    Action,
    CheckoutSession,
    CreditGrant,
    EntryKind,
    Invoice,
    LedgerEntry,
    Reservation,
    ReservationState,
    StripeCustomer,
    Subscription,
)
from paidup.db.unit_accounts import AnyAccount, in_all_units, in_unit
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.outbound_events import OutboundEventType, crossings
from paidup.errors import Conflict, NotFound
from paidup.operations.audit_log import (
    Corrected,
    Instruction,
    Request,
    done_before,
    once,
    record,
    request,
)
from paidup.payments import entitlements
from paidup.payments.after_commit import PublishBalance
from paidup.runtime.clock import Clock, now

MERGED = "merged with another account"
_OWNED = (Invoice, CreditGrant, Subscription, StripeCustomer, CheckoutSession, Reservation)
_MAX_LISTED = 100
"""How many ids of each kind the audit log lists."""
# A spend's or a reservation's reference has its account: then its key is the other account's, too, unless
# that has used the same key.
_MOVE_ENTRIES = """
UPDATE ledger_entries SET account_id = {into}, reference = CASE
  WHEN reference LIKE '{source}:%' AND kind IN ('spend', 'reserve', 'release') AND NOT EXISTS (
    SELECT 1 FROM ledger_entries o WHERE o.kind = ledger_entries.kind
    AND o.reference = '{into}:' || substr(ledger_entries.reference, {after}))
  THEN '{into}:' || substr(reference, {after})
  WHEN reference LIKE 'reservation:{source}:%' AND NOT EXISTS (
    SELECT 1 FROM ledger_entries o WHERE o.kind = ledger_entries.kind
    AND o.reference = 'reservation:{into}:' || substr(ledger_entries.reference, {after} + 12))
  THEN 'reservation:{into}:' || substr(reference, {after} + 12)
  ELSE reference END
WHERE account_id = {source}
"""


class Merging:
    def __init__(self, publish: PublishBalance, clock: Clock = now) -> None:
        self._publish = publish
        self._clock = clock

    async def merge(self, into: str, merged: str, instruction: Instruction) -> Corrected:
        """Merge the account `merged` into the account `into`.

        Raises NotFound, InvalidInput, Conflict where both are one, one was merged before, or a reservation
        of the one is held under a key that the other has used, and StorageUnavailable.
        """
        wanted = request(Action.MERGE, instruction, into=into, merged=merged)
        done, account = await _once(wanted, into, merged, self._clock())
        if account is not None:
            await self._publish(account)
        return done


def _balances(account: Account, *others: Account) -> dict[str, Any]:
    """The account's balances, also of the units that it, or one of the `others`, ever had any of."""
    units = {own.unit: own.balance for own in in_all_units(account, *others)[1:]}
    return {"balance": account.balance, **({"units": units} if units else {})}


@once
async def _once(wanted: Request, into: str, merged: str, at: datetime) -> tuple[Corrected, Account | None]:
    async with write_transaction():
        if done := await done_before(wanted):
            return done, None
        target, source = await _lock_both(into, merged)
        await _free_keys(target, source)
        details = {"merged": merged, "merged_account": source.id, **await _what_it_has(source)}
        merged_units = {own.unit: own.balance for own in in_all_units(source)[1:]}
        before = {
            **_balances(target, source),
            "merged_balance": source.balance,
            **({"merged_units": merged_units} if merged_units else {}),
        }
        await _move(target, source)
        await _add_up(target, source, wanted.id, at)
        return await record(wanted, target, at, before, _balances(target), details), target


async def _lock_both(into: str, merged: str) -> tuple[Account, Account]:
    target, source = await find_account(into), await Account.get_or_none(external_id=merged)
    for account, name in ((target, into), (source, merged)):
        if account is None:
            raise NotFound(f"There is no account {name!r}.")
    assert target is not None
    assert source is not None
    # The merged one first, as `ledger.lock_account` does when it goes on to the other. Their invoices
    # need no lock: a settlement waits for the account.
    rows = [await locked(Account.filter(id=account.id)).get() for account in (source, target)]
    if source.id == target.id or any(row.merged_into for row in rows):
        raise Conflict("Both are one account already.")
    return rows[1], rows[0]


async def _free_keys(target: Account, source: Account) -> None:
    """Rename the ended reservations of `source` whose key is in use in `target`; their unique key is both."""
    used = Subquery(Reservation.filter(account_id=target.id).values("key"))
    for row in await Reservation.filter(account_id=source.id, key__in=used):
        held = ReservationState.HELD in (
            row.state,
            (await Reservation.get(account_id=target.id, key=row.key)).state,
        )
        if held:
            raise Conflict(f"Both have a reservation {row.key!r}, and one is held. Commit or release it.")
        row.key = f"merged:{row.id}"
        await row.save(update_fields=["key"])


async def _what_it_has(source: Account) -> dict[str, Any]:
    """What explains the merge later: what was whose."""
    found: dict[str, Any] = {"entries": await LedgerEntry.filter(account_id=source.id).count()}
    for model in _OWNED:
        rows = model.filter(account_id=source.id)
        ids = await rows.order_by("-created_at").limit(_MAX_LISTED).values_list("id", flat=True)
        found[model._meta.db_table] = {"count": await rows.count(), "newest": list(ids)}
    return found


async def _move(target: Account, source: Account) -> None:
    for model in _OWNED:
        await model.filter(account_id=source.id).update(account_id=target.id)
    after = len(str(source.id)) + 2
    statement = _MOVE_ENTRIES.format(into=target.id, source=source.id, after=after)
    await connection().execute_query(statement)
    await Account.filter(merged_into=source.id).update(merged_into=target.id)


async def _add_up(target: Account, source: Account, correction: str, at: datetime) -> None:
    """One balance of each unit: the sum. A debt of the one is paid from the live grants of the other."""
    customer, since = source.stripe_customer, target.version
    source.stripe_customer, source.merged_into = None, target.id
    await source.save(update_fields=["stripe_customer", "merged_into"])
    target.stripe_customer = target.stripe_customer or customer
    await target.save(update_fields=["stripe_customer"])
    moved = []
    for own in in_all_units(target, source):
        others = in_unit(source, own.unit)
        moved.append((own, others, others.balance, own.balance))
        await ledger.take_over(own, others)
        # It moves nothing, and says from when on the balances are one.
        reference = f"correction:{correction}" + (f"/{own.unit}" if own.unit else "")
        await ledger.post_entry(own, EntryKind.ADJUST, 0, reference, MERGED, at=at)
    await entitlements.refresh(target, since)
    await entitlements.refresh(source)
    writes = UnitOfWork()
    for own, others, credits, before in moved:
        _add_events(writes, own, others, credits, before)
    await writes.send()


def _add_events(writes: UnitOfWork, own: AnyAccount, others: AnyAccount, moved: int, before: int) -> None:
    for account, credits in ((own, moved), (others, -moved)):
        adjusted = OutboundEventType.CREDITS_ADJUSTED
        outbox.add_event(writes, adjusted, account, credits=credits, reason=MERGED)
    for crossing in crossings(before, own.balance, own.low_balance):
        outbox.add_event(writes, crossing, own)
