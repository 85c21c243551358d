"""The audit of the hammer: what the database says, against Stripe's side and what customers were told.

Reads, and changes nothing. Each difference is one line for a person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from paidup.credits.audit import audit_all
from paidup.db.models import Account, CreditGrant, EntryKind, Invoice, LedgerEntry, StripeEvent
from paidup.domain.decisions import InvoiceStatus
from paidup.operations.row_repairs import check_rows
from tests.chaos.customers import PLANS, Spend, Story

PRICES = {900: PLANS["basic"], 1900: PLANS["advanced"], 2900: PLANS["pro"]}


async def violations(stories: Sequence[Story], paid: Sequence[Any]) -> list[str]:
    """What is wrong; empty where all is right. `paid` are Stripe's paid invoices."""
    return [
        *(f"audit: {finding.subject}: {finding.what}" for finding in await audit_all()),
        *(f"row: {finding.subject}: {finding.what}" for finding in await check_rows(repair=False)),
        *(await _credited_once(paid)),
        *(await _spent_once(stories)),
        *(await _running_balances()),
        *(await _events_kept()),
        *_all_told(stories, paid),
        *(f"{story.name}: {complaint}" for story in stories for complaint in story.complaints),
    ]


async def ungranted(paid: Sequence[Any]) -> list[Any]:
    """The paid invoices that have no grant yet."""
    granted = set(await CreditGrant.all().values_list("invoice_id", flat=True))
    return [invoice for invoice in paid if invoice["id"] not in granted]


async def _credited_once(paid: Sequence[Any]) -> list[str]:
    """Each paid invoice has one grant of what its plan gives, and nothing else has any."""
    found = []
    owed = {invoice["id"]: PRICES[invoice["amount_paid"]] for invoice in paid}
    grants: dict[str, list[int]] = defaultdict(list)
    for grant in await CreditGrant.all():
        grants[str(grant.invoice_id)].append(grant.credits)
    found += [f"{id} is paid and was granted {grants[id]}" for id in owed if grants[id] != [owed[id]]]
    found += [
        f"{id} was granted {got} and is not paid" for id, got in grants.items() if id not in owed and got
    ]
    active = set(await Invoice.filter(status=InvoiceStatus.ACTIVE).values_list("id", flat=True))
    found += [f"{id} is paid here or there, not both" for id in active ^ set(owed)]
    return found


async def _spent_once(stories: Sequence[Story]) -> list[str]:
    """Each acknowledged key is in the ledger once, each refused one is not, and no other key is."""
    asked = {spend.key: spend for story in stories for spend in story.spends}
    entries: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in await LedgerEntry.filter(kind=EntryKind.SPEND):
        entries[entry.reference.partition(":")[2]].append(entry)
    found = [f"the key {key} was never sent" for key in entries if key not in asked]
    for key, spend in asked.items():
        found += _spend_differs(spend, entries.get(key, []))
    return found


def _spend_differs(spend: Spend, entries: list[LedgerEntry]) -> Iterator[str]:
    if spend.balance is None:
        if entries and spend.refused and not spend.unanswered:
            yield f"the key {spend.key} was refused and is in the ledger"
        return
    if [(entry.credits, entry.balance_after) for entry in entries] != [(-spend.credits, spend.balance)]:
        yield f"the key {spend.key} was acknowledged as {spend}, the ledger has {entries}"


async def _running_balances() -> list[str]:
    """Entry upon entry, each balance is the one before and the credits, and none is below zero."""
    found = []
    balances: Counter[int] = Counter()
    for entry in await LedgerEntry.all().order_by("id"):
        balances[entry.account_id] += entry.credits
        if entry.balance_after != balances[entry.account_id]:
            found.append(f"entry {entry.id} says {entry.balance_after} after {balances[entry.account_id]}")
        if entry.balance_after < 0:
            found.append(f"entry {entry.id} goes below zero: {entry.balance_after}")
    for account in await Account.all():
        if account.balance != balances[account.id]:
            found.append(f"{account.external_id} has {account.balance}, entries {balances[account.id]}")
    return found


async def _events_kept() -> list[str]:
    parked = await StripeEvent.filter(handled_at__isnull=True, next_attempt_at__isnull=True).count()
    return [f"{parked} events were given up"] if parked else []


def _all_told(stories: Iterable[Story], paid: Sequence[Any]) -> Iterator[str]:
    at_stripe = {invoice["id"] for invoice in paid}
    for story in stories:
        if not story.invoice:
            yield f"{story.name} never got their subscription"
        elif story.paid_at is None and story.paying != "never":
            yield f"{story.name} ({story.paying}) never paid"
        elif story.watches and story.status != "active":
            yield f"{story.name} watches {story.invoice} and was never told"
        elif story.told_at and story.invoice not in at_stripe:
            yield f"{story.name} was told that {story.invoice} is active, and it is not paid"


async def events_by_outcome() -> dict[str, int]:
    """How many stored events ended how; `unhandled` are still to be tried again."""
    counts: Counter[str] = Counter()
    for outcome, handled in await StripeEvent.all().values_list("outcome", "handled_at"):
        counts[str(outcome) if handled else "unhandled"] += 1
    return dict(counts)
