"""All that an operator may do to credits and accounts, for the commands, the API and the operators' page."""

from __future__ import annotations

from collections.abc import Sequence

from paidup.db.connection import storage_errors
from paidup.domain.catalog import AfterRefund, Catalogue
from paidup.operations import customer_links, dismissal, erasure
from paidup.operations.audit_log import Corrected, Instruction
from paidup.operations.corrections import Corrections, Gift, PaidBy
from paidup.operations.merging import Merging
from paidup.operations.paid_outside import PaidOutside, find_grant
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock, now


class OperatorActions:
    """Each action has a key: again under it, it returns what it did and changes nothing."""

    def __init__(
        self,
        catalogue: Catalogue,
        verification: Verification,
        settlement: Settlement,
        clock: Clock = now,
    ) -> None:
        self._corrections = Corrections(catalogue, settlement.publish_balance, clock)
        self._outside = PaidOutside(verification, settlement, clock)
        self._merging = Merging(settlement.publish_balance, clock)

    async def grant(
        self, account: str, gift: Gift, instruction: Instruction, unit: str | None = None
    ) -> Corrected:
        """Give credits that no invoice gives."""
        return await self._corrections.grant(account, gift, instruction, unit)

    async def grant_invoice(
        self, account: str, invoice: str, paid_by: PaidBy, instruction: Instruction
    ) -> Corrected:
        """Credit an invoice that was paid outside of Stripe."""
        return await self._outside.grant(account, invoice, paid_by, instruction)

    async def revoke(
        self, granted: str, instruction: Instruction, spent: AfterRefund = AfterRefund.DEBT
    ) -> Corrected:
        """Undo either grant, named by its key or its id.

        `spent` is for the first; for an invoice, the policy of the plans file says what is owed.
        """
        with storage_errors():
            of_invoice = await find_grant(granted)
        if of_invoice is not None:
            return await self._outside.revoke(granted, instruction)
        return await self._corrections.revoke(granted, instruction, spent)

    async def adjust(
        self,
        account: str,
        credits: int,
        instruction: Instruction,
        allow_debt: bool = False,
        unit: str | None = None,
    ) -> Corrected:
        """Raise or lower a balance. The opposite undoes it."""
        return await self._corrections.adjust(account, credits, instruction, allow_debt, unit)

    async def link_customer(self, customer: str, account: str, instruction: Instruction) -> Corrected:
        """Say whose a Stripe customer is."""
        return await customer_links.link(customer, account, instruction)

    async def unlink_customer(self, customer: str, account: str, instruction: Instruction) -> Corrected:
        """Undo `link_customer`."""
        return await customer_links.unlink(customer, account, instruction)

    async def merge_accounts(self, into: str, merged: str, instruction: Instruction) -> Corrected:
        """Make all that `merged` has the account `into`'s. It cannot be undone."""
        return await self._merging.merge(into, merged, instruction)

    async def erase(self, account: str, instruction: Instruction, also: Sequence[str] = ()) -> Corrected:
        """Erase what names the person behind an account. It cannot be undone."""
        return await erasure.erase(account, instruction, also)

    async def dismiss(self, events: Sequence[str], instruction: Instruction) -> Corrected:
        """End the alarm about events that need no handling."""
        return await dismissal.dismiss(events, instruction)

    async def reopen(self, events: Sequence[str], instruction: Instruction) -> Corrected:
        """Undo `dismiss`."""
        return await dismissal.reopen(events, instruction)
