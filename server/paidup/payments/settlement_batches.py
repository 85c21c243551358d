"""Settles what arrives together: one read, one transaction, and each has an answer of its own.

What arrives while these are under way shares the next ones. Each account is written as a whole or left out:
where a row of it has changed since it was read, or is locked, nothing of it has happened, and its invoices
are settled one by one, on locked rows (`settlement.py`). So is what needs more to be read, and a second
change of one account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from paidup.db.connection import repeatable, storage_errors
from paidup.db.models import Invoice, StripeEvent
from paidup.db.shared_writes import ReadCells, VersionedRows, read_versioned, write_unchanged
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.payments.invoice_rows import IN_LOCK_ORDER
from paidup.payments.outcomes import Settled
from paidup.payments.settlement_rules import NEEDS_STRIPE, SettlementRules
from paidup.runtime.batching import BatchExecutor

MAX_ITEMS = 50
"""Settlements in one transaction."""
BESIDE_AFTER_S = 1.0
"""Statements that take longer, on a connection that does not answer, keep no later settlement waiting."""
AT_A_TIME = 5
"""Settlements decided between two turns of the event loop."""
_WANTED = "(invoices.id = ANY($1) OR invoices.payment_intent = ANY($2)) AND accounts.id = invoices.account_id"


class _Asked(NamedTuple):
    facts: PaymentFacts
    source: Source
    received: StripeEvent | None
    read: ReadCells | None


_Taken = dict[int, VersionedRows | None]
"""By account: the rows that have changes to write; None where it is left out."""


class SettlementBatches:
    def __init__(self, rules: SettlementRules) -> None:
        self._rules = rules
        self._together = BatchExecutor(self._settle, MAX_ITEMS, beside_after_s=BESIDE_AFTER_S)

    async def __call__(
        self,
        facts: PaymentFacts,
        source: Source,
        received: StripeEvent | None = None,
        read: ReadCells | None = None,
    ) -> Settled | None:
        """What became of it. None, with nothing done, where it must be settled by itself.

        `received`: the row of an event that is not stored yet; where something changes, it is stored with
        that, as handled. It is left out where it exists, and where Stripe is to be asked first. `read`: the
        rows of the account and the invoice, where the caller has read them.
        Raises IntegrityError, StorageUnavailable.
        """
        return await self._together(_Asked(facts, source, received, read))

    @repeatable
    async def _settle(self, asked: Sequence[_Asked]) -> Sequence[Settled | None]:
        with storage_errors():
            found = await _found(asked)
            answers: list[Settled | None] = []
            taken: _Taken = {}
            for number, (each, rows) in enumerate(zip(asked, found, strict=True), start=1):
                answers.append(await self._decide(each, rows, taken) if rows else None)
                if number % AT_A_TIME == 0:
                    await asyncio.sleep(0)
            changed = [rows for rows in taken.values() if rows is not None]
            written = await write_unchanged(changed) if changed else []
        lost = {rows.rows[0].id for rows, done in zip(changed, written, strict=True) if not done}
        return [
            None if rows and rows.rows[0].id in lost else answer
            for rows, answer in zip(found, answers, strict=True)
        ]

    async def _decide(self, asked: _Asked, rows: VersionedRows, taken: _Taken) -> Settled | None:
        account, row = rows.rows
        if account.id in taken:  # the rest of what it would depend on is not written yet
            first = taken[account.id]
            if first is not rows or not self._rules.changes_nothing(row, asked.facts):
                return None
        decision = self._rules.decide(row, asked.facts, asked.source)
        if asked.received and decision.verdict in NEEDS_STRIPE:
            return None
        if await self._rules.affects_others(decision, row, account):
            taken.setdefault(account.id)  # `row` may say already what was not written
            return None
        event = asked.received or asked.facts.event
        settled = await self._rules.apply(decision, row, account, event, rows.writes)
        if not rows.writes.empty:
            taken[account.id] = rows
        return settled


async def _found(asked: Sequence[_Asked]) -> list[VersionedRows | None]:
    """Of each, the rows that its caller has read, or that are read now."""
    unread = [each.facts for each in asked if each.read is None]
    read = iter(await _read(unread) if unread else ())
    return [next(read) if each.read is None else each.read.rows() for each in asked]


async def _read(facts: Sequence[PaymentFacts]) -> list[VersionedRows | None]:
    """Of each, the account and the invoice that it is about; None where the invoice is not known."""
    ids = [each.invoice.id for each in facts if each.invoice]
    intents = [payment.intent for each in facts if not each.invoice for payment in each.payments]
    found = await read_versioned(_WANTED, (ids, intents), *IN_LOCK_ORDER)
    by_id = {_invoice(rows).id: rows for rows in found}
    by_intent = {_invoice(rows).payment_intent: rows for rows in found}

    def rows_of(each: PaymentFacts) -> VersionedRows | None:
        if each.invoice:
            return by_id.get(each.invoice.id)
        return next((by_intent[pay.intent] for pay in each.payments if pay.intent in by_intent), None)

    return [rows_of(each) for each in facts]


def _invoice(rows: VersionedRows) -> Invoice:
    _, invoice = rows.rows
    assert isinstance(invoice, Invoice)
    return invoice
