"""The ledger: posts every movement of credits as one entry, exactly once.

The only code that changes a balance. Each function runs inside the caller's write transaction, on a
locked account, so two processes change one balance in turn; or adds to the caller's `writes`, which may be
decided without the lock where they are only written if nothing has changed. Whether to grant or to reverse is
decided in `payments/settlement.py` and `reversals.py`. An entry's outbound events are written with it.

An account is passed in one unit (`db/unit_accounts.py`), and no function touches credits of another.

Invariant: balance = sum of the entries = what remains in live grants, minus the debt. An account never
has both, because a debt is paid from live grants and from new ones first. A balance below zero is the debt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from paidup.credits import moves
from paidup.credits.entry_events import add_events
from paidup.db.instances import new_row
from paidup.db.models import ROLLS_OVER, Account, CreditGrant, EntryKind, GrantState, LedgerEntry
from paidup.db.unit_accounts import AnyAccount, AnyInvoice, save_balance, write_balance
from paidup.db.unit_of_work import UnitOfWork, read_locked, read_many
from paidup.errors import InsufficientCredits, KeyReused
from paidup.runtime.clock import now


class Spent(msgspec.Struct, frozen=True):
    """The result of a spend; the same key gives the same result. `unit` unset: the default one."""

    balance: int
    credits: int
    key: str
    unit: str | msgspec.UnsetType = msgspec.UNSET


ON_TRUST = 0
"""The installment of credits that are granted before their payment: see trust.py. Paid ones begin with 1."""


class GrantTerms(msgspec.Struct, frozen=True):
    """What a grant gives. `expires_at` None: never. `due_at`: when a planned installment becomes live.

    `usable_until`: until when its credits can be used after that, while a renewal is awaited. `correction`:
    the operator's, where no invoice gives it.
    """

    credits: int
    expires_at: datetime | None = None
    installment: int = 1
    plan: str | None = None
    rollover_cap: int = 0
    due_at: datetime | None = None
    usable_until: datetime | None = None
    correction: str | None = None


async def lock_account(account_id: int) -> Account:
    """The account, or the one that it was merged into, locked until the transaction ends."""
    found = await read_locked("accounts.id = $1", [account_id], Account)
    assert found is not None, "an account is never deleted"
    account: Account = found[0]
    return await lock_account(account.merged_into) if account.merged_into else account


# Granting


async def grant(
    account: AnyAccount,
    invoice_id: str,
    terms: GrantTerms,
    at: datetime | None = None,
    note: str = "",
    writes: UnitOfWork | None = None,
) -> None:
    """Grant credits for a paid invoice. Raises tortoise's IntegrityError if they were granted before.

    A grant of zero is written too: every paid invoice has a grant. With `writes`, the rows are added to it,
    and the IntegrityError comes when it is sent.
    """
    assert terms.credits >= 0
    sent_later = writes is not None
    writes = writes or UnitOfWork()
    remaining = terms.credits - min(terms.credits, moves.debt_of(account))
    row = new_grant(account, invoice_id, terms, remaining, GrantState.LIVE)
    writes.insert(row)
    reason = f"{terms.plan or 'plan'}, {'on trust' if terms.installment == ON_TRUST else 'paid'}{note}"
    reference = f"{invoice_id}:{terms.installment}"
    _post(writes, account, _entry(EntryKind.GRANT, terms.credits, reference, reason, at), row)
    if not sent_later:
        await writes.send()


async def plan_installment(
    account: AnyAccount, invoice_id: str, terms: GrantTerms, writes: UnitOfWork | None = None
) -> None:
    """Store a later installment, without credits until `make_installment`. `writes` as in `grant`."""
    planned = new_grant(account, invoice_id, terms, 0, GrantState.PLANNED)
    if writes is None:
        await planned.save()
    else:
        writes.insert(planned)


def new_grant(
    account: AnyAccount, invoice_id: str | None, terms: GrantTerms, remaining: int, state: GrantState
) -> CreditGrant:
    return new_row(
        CreditGrant,
        account_id=account.id,
        invoice_id=invoice_id,
        unit=account.unit,
        remaining=remaining,
        state=state,
        **msgspec.structs.asdict(terms),
    )


async def resize_installment(planned: CreditGrant, credits: int) -> None:
    """Change how many credits a planned installment will grant."""
    planned.credits = credits
    await planned.save(update_fields=["credits"])


async def cancel_planned(planned: Iterable[CreditGrant]) -> None:
    """Cancel these planned installments."""
    for grant in planned:
        grant.state = GrantState.CANCELED
        await grant.save(update_fields=["state"])


async def make_installment(account: AnyAccount, planned: CreditGrant, at: datetime) -> None:
    """Grant a planned installment. `planned` was read after the account was locked."""
    assert planned.state is GrantState.PLANNED
    planned.remaining = planned.credits - min(planned.credits, moves.debt_of(account))
    planned.state = GrantState.LIVE
    await planned.save(update_fields=["remaining", "state"])
    reason = f"{planned.plan or 'plan'}, part {planned.installment}"
    reference = f"{planned.invoice_id}:{planned.installment}"
    await post_entry(account, EntryKind.GRANT, planned.credits, reference, reason, planned, at)


async def adjust(account: AnyAccount, grant: CreditGrant, credits: int, cause: str, at: datetime) -> None:
    """Change a grant to `credits` in all. Credits spent beyond that become a debt."""
    before = grant.credits
    debt = moves.debt_of(account)
    if credits > before:
        grant.remaining += credits - before
    else:
        taken = min(before - credits, grant.remaining)
        unexpired = min(before - credits - taken, grant.expired)
        grant.remaining, grant.expired = grant.remaining - taken, grant.expired - unexpired
        debt += before - credits - taken - unexpired
    grant.credits = credits
    await grant.save(update_fields=["credits", "expired"])
    balance = await moves.settle_debt(account, [grant], debt)
    reason = "recalculated with a late invoice"
    await post_entry(account, EntryKind.ADJUST, balance - account.balance, cause, reason, grant, at)


async def take_over(target: AnyAccount, source: AnyAccount) -> None:
    """Give `target` the balance of `source`, whose entries and grants it has. A debt is paid from both's.

    Both are locked, and of one unit. Pages of either one take the next version of `target`.
    """
    debt = moves.debt_of(target) + moves.debt_of(source)
    target.balance, source.balance = target.balance + source.balance, 0
    target.held, source.held = target.held + source.held, 0
    if target.low_balance is None:  # the plan that says it has come along
        target.low_balance = source.low_balance
    source.version += 1
    target.version = max(target.version, source.version)
    for account in (target, source):
        await save_balance(account)
    assert await moves.settle_debt(target, [], debt) == target.balance


# Spending and expiry


async def spend(account: AnyAccount, credits: int, key: str, at: datetime, reason: str = "") -> Spent:
    """Spend `credits` (above 0) from the grants that expire first, once per `key`.

    Raises InsufficientCredits, and KeyReused if the key was used for another amount or unit. Does not expire
    reservations: see `reservations.spend`.
    """
    assert credits > 0
    reference = f"{account.id}:{key}"
    done = await LedgerEntry.get_or_none(kind=EntryKind.SPEND, reference=reference)
    if done is not None:
        if (done.credits, done.unit) != (-credits, account.unit):
            raise KeyReused(key, -done.credits, done.unit)
        return Spent(done.balance_after, credits, key, account.unit or msgspec.UNSET)
    live = await live_grants(account, at)
    if account.balance < credits:
        raise InsufficientCredits(account.balance, credits, account.unit)
    await moves.debit_grants(live, credits)
    await post_entry(account, EntryKind.SPEND, -credits, reference, reason, at=at)
    return Spent(account.balance, credits, key, account.unit or msgspec.UNSET)


async def live_grants(account: AnyAccount, at: datetime) -> list[CreditGrant]:
    """The grants that may be spent, in spending order, after ending those that expire by `at`."""
    # Used-up grants without an expiry stay live forever, so they are not read.
    live = await read_many(CreditGrant, moves.WITH_CREDITS_OF_UNIT, account.id, account.unit)
    for ended in sorted((g for g in live if is_over(g, at)), key=moves.spending_order):
        await _end(account, ended, _kept(ended, live), at)
    for rolled, over in _beyond_cap(live):
        await _end(account, rolled, rolled.remaining - over, at, "above the rollover cap")
    return sorted((g for g in live if g.state is GrantState.LIVE and g.remaining), key=moves.spending_order)


# Two conditions, for two indexes: of what ends, and of what has rolled over, which may be above the cap.
_OWN = f"SELECT id FROM credit_grants WHERE {moves.WITH_CREDITS_OF_UNIT}"  # noqa: S608 - constants
_MAY_BE_OVER = f"""id IN (SELECT id FROM ({_OWN} AND expires_at <= $3 LIMIT 1) AS ended
UNION ALL {_OWN} AND {ROLLS_OVER} AND expires_at IS NULL) LIMIT 1"""  # noqa: S608 - constants


def spendable(live: Sequence[CreditGrant], at: datetime) -> list[CreditGrant] | None:
    """What `live_grants` returns of an account whose grants with credits are `live`, all of one unit.

    None where some of them have to be ended first.
    """
    if any(is_over(grant, at) for grant in live) or _beyond_cap(live):
        return None
    return sorted((grant for grant in live if grant.remaining), key=moves.spending_order)


async def expire_due(account: AnyAccount, at: datetime) -> None:
    """End the grants that expire by `at`; each end is an entry. Where none does, few grants are read."""
    if await read_many(CreditGrant, _MAY_BE_OVER, account.id, account.unit, at):
        await live_grants(account, at)


async def expire(account: AnyAccount, grants: Iterable[CreditGrant], reason: str, at: datetime) -> None:
    """End these live grants at `at`, whatever their own expiry."""
    for ended in grants:
        # Credits that return to it later expire as well.
        ended.rollover_cap, ended.expires_at, ended.usable_until = 0, min(ended.expires_at or at, at), None
        await _end(account, ended, 0, at, reason)


def ends_at(grant: CreditGrant) -> datetime | None:
    """When its unused credits expire; None: never. Later than `expires_at` while a renewal is awaited."""
    end: datetime | None = grant.expires_at
    return max(end, grant.usable_until or end) if end else None


def is_over(grant: CreditGrant, at: datetime) -> bool:
    """Whether its credits can no longer be used at `at`."""
    end = ends_at(grant)
    return end is not None and end <= at


def _kept(ended: CreditGrant, live: Sequence[CreditGrant]) -> int:
    """How many of its credits roll over: up to the plan's cap over all grants."""
    rolled = sum(g.remaining for g in live if g.rollover_cap and g.expires_at is None)
    kept: int = min(ended.remaining, max(0, ended.rollover_cap - rolled))
    return kept


def _beyond_cap(live: Sequence[CreditGrant]) -> list[tuple[CreditGrant, int]]:
    """Credits above the rollover cap, by grant: they returned to a grant after its end."""
    rolled = [g for g in live if g.rollover_cap and g.expires_at is None and g.remaining]
    excess = sum(g.remaining for g in rolled) - max((g.rollover_cap for g in rolled), default=0)
    found = []
    for grant in sorted(rolled, key=moves.spending_order, reverse=True):
        taken = min(max(0, excess), grant.remaining)
        excess -= taken
        if taken:
            found.append((grant, taken))
    return found


async def _end(
    account: AnyAccount, ended: CreditGrant, kept: int, at: datetime, reason: str | None = None
) -> None:
    over = ended.remaining - kept
    if reason is None:
        # Dated at the period's end. The entry's own date is later after a grace, or if nobody looked sooner.
        reason = f"unused at its end, {ended.expires_at or at:%Y-%m-%d %H:%M} UTC"
    if over:
        # A grant ends more than once if credits return to it after its end.
        reference = f"grant:{ended.id}:{ended.expired}"
        await post_entry(account, EntryKind.EXPIRE, -over, reference, reason, ended, at)
    ended.remaining, ended.expired = kept, ended.expired + over
    if kept:
        ended.expires_at = None
    else:
        ended.state = GrantState.EXPIRED
    ended.usable_until = None
    columns = ["remaining", "expired", "expires_at", "usable_until", "rollover_cap", "state"]
    await ended.save(update_fields=columns)


# Posting an entry


async def post_entry(
    account: AnyAccount,
    kind: EntryKind,
    credits: int,
    reference: str,
    reason: str = "",
    about: CreditGrant | AnyInvoice | None = None,
    at: datetime | None = None,
) -> None:
    """Write an entry, change the balance by it, and write its outbound events. `at` defaults to now."""
    writes = UnitOfWork()
    _post(writes, account, _entry(kind, credits, reference, reason, at), about)
    await writes.send()


def add_entry(
    writes: UnitOfWork,
    account: AnyAccount,
    kind: EntryKind,
    credits: int,
    reference: str,
    reason: str,
    at: datetime,
) -> None:
    """Like `post_entry`, added to `writes`."""
    _post(writes, account, _entry(kind, credits, reference, reason, at), None)


def _entry(kind: EntryKind, credits: int, reference: str, reason: str, at: datetime | None) -> LedgerEntry:
    values = {"kind": kind, "credits": credits, "reference": reference, "reason": reason}
    return new_row(LedgerEntry, **values, created_at=at or now())


def _post(
    writes: UnitOfWork, account: AnyAccount, entry: LedgerEntry, about: CreditGrant | AnyInvoice | None
) -> None:
    """Change the balance by the entry, and add to `writes` the entry and its outbound events.

    `about` may be a grant that is inserted by the same `writes`.
    """
    before: int = account.balance
    account.balance += entry.credits
    account.version += 1
    entry.account_id, entry.unit, entry.balance_after = account.id, account.unit, account.balance
    if isinstance(about, CreditGrant) and about.pk is None:
        writes.insert(entry, grant_id=about)
    else:
        entry.grant_id = about.id if isinstance(about, CreditGrant) else None
        writes.insert(entry)
    write_balance(account, writes)
    add_events(writes, account, entry, before, about)
