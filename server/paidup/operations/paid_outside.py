"""An invoice that was paid outside of Stripe, by wire for example: an operator has it credited, once.

It is settled like any other, with the operator's word in place of Stripe's. So where Stripe marks it as paid
later, it was credited already. `revoke` undoes it, as a credit note of the whole would; if Stripe shows the
invoice as paid after all, its credits return.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace

from paidup.credits.reversals import operators_reversal
from paidup.db.accounts import find_account
from paidup.db.connection import storage_errors
from paidup.db.models import Account, Action, Correction, Invoice
from paidup.db.unit_accounts import in_unit, units_of
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.errors import Conflict, InvalidInput, NotFound, StripeRefused
from paidup.operations.audit_log import (
    Corrected,
    Instruction,
    Request,
    done_before,
    find_done,
    once,
    record,
    request,
)
from paidup.operations.corrections import PaidBy
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock, now

INVOICE_ID = re.compile(r"in_[A-Za-z0-9_]{1,200}")
PAYABLE = ("open", "uncollectible", "paid")
"""Statuses of an invoice at Stripe that may have been paid outside of it."""


class PaidOutside:
    def __init__(self, verification: Verification, settlement: Settlement, clock: Clock = now) -> None:
        self._verification = verification
        self._settlement = settlement
        self._clock = clock

    async def grant(self, account: str, invoice: str, paid_by: PaidBy, instruction: Instruction) -> Corrected:
        """Credit an invoice of the account that Stripe does not show as paid.

        Raises NotFound, Conflict, InvalidInput, StripeError, StorageUnavailable.
        """
        if not INVOICE_ID.fullmatch(invoice):
            raise InvalidInput("A Stripe invoice's id begins with in_.")
        asked = {"account": account, "invoice": invoice, "paid_by": paid_by}
        wanted = request(Action.GRANT, instruction, **asked)
        with storage_errors():
            if done := await done_before(wanted):
                return done
        facts = await self._read(invoice)
        with storage_errors():
            row = await Invoice.get_or_none(id=invoice).select_related("account")
        if row is None:
            raise Conflict(f"{invoice} cannot be credited here: see `paidup explain {invoice}`.")
        return await self._grant(wanted, row, facts, {"invoice": invoice, "paid_by": paid_by})

    async def _read(self, invoice: str) -> PaymentFacts:
        """Read it, and settle what Stripe says of it, so that its row and its prices are known here."""
        try:
            settled, shown = await self._verification.read(invoice, Source.RECONCILIATION)
        except StripeRefused as error:
            if not error.is_missing:
                raise
            raise NotFound(f"Stripe has no invoice {invoice}.") from None
        if shown.status not in PAYABLE:
            raise Conflict(f"{invoice} is {shown.status} at Stripe: it cannot be paid.")
        if settled.status is None:
            raise Conflict(f"{invoice} cannot be credited: {settled.outcome} ({settled.reason}).")
        facts = shown.facts()
        assert facts.invoice is not None
        return PaymentFacts(replace(facts.invoice, status="paid", written_off=False))

    @once
    async def _grant(
        self, wanted: Request, row: Invoice, facts: PaymentFacts, details: dict[str, Any]
    ) -> Corrected:
        found: list[Corrected] = []

        async def write(settled: Settled) -> None:
            if done := await done_before(wanted):
                found.append(done)
                return
            account = await find_account(wanted.asked["account"])
            if account is None:
                raise NotFound(f"There is no account {wanted.asked['account']!r}.")
            current = await Invoice.get(id=row.id)
            if current.account_id != account.id:
                raise Conflict(f"{row.id} belongs to another account.")
            if settled.outcome is not Outcome.SETTLED:
                raise Conflict(f"{row.id} was not credited: {settled.outcome} ({settled.reason}).")
            before, after = {"status": row.status}, _outcome(current, account)
            found.append(await record(wanted, account, self._clock(), before, after, details))

        await self._settlement.settle_by_operator(facts, write)
        return found[0]

    async def revoke(self, granted: str, instruction: Instruction) -> Corrected:
        """Take back what `grant` credited, named by its key or its id. Raises what `grant` raises."""
        wanted = request(Action.REVOKE, instruction, granted=granted)
        with storage_errors():
            if done := await done_before(wanted):
                return done
            correction = await find_grant(granted)
        if correction is None:
            raise NotFound(f"No grant of an invoice has the key or the id {granted!r}.")
        return await self._revoke(wanted, correction)

    @once
    async def _revoke(self, wanted: Request, correction: Correction) -> Corrected:
        invoice, found = str(correction.details["invoice"]), list[Corrected]()
        with storage_errors():
            row = await Invoice.get(id=invoice)

        async def write(account: Account) -> None:
            current = await Invoice.get(id=invoice)
            before, after = {"status": row.status}, _outcome(current, account)
            details = {"granted": correction.id, "invoice": invoice}
            found.append(await record(wanted, account, self._clock(), before, after, details))

        amount = row.total_minor or row.amount_due_minor
        await self._settlement.reverse(operators_reversal(invoice, amount, revoked=True), write)
        if not found:
            raise Conflict("This grant was revoked already.")
        return found[0]


def _outcome(row: Invoice, account: Account) -> dict[str, Any]:
    """What became of the invoice, and the balances of the units that it gave."""
    others = {unit: in_unit(account, unit).balance for unit in units_of(row.unit_credits)}
    return {"status": row.status, "balance": account.balance, **({"units": others} if others else {})}


async def find_grant(granted: str) -> Correction | None:
    """The grant of an invoice that has this key or id, or None."""
    correction = await find_done(granted, Action.GRANT).first()
    return correction if correction and "invoice" in correction.details else None
