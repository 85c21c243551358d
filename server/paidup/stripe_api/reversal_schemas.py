"""What takes a payment back, as Stripe shows it: refunds, disputes and credit notes."""

from __future__ import annotations

import msgspec


class Refund(msgspec.Struct, frozen=True):
    id: str
    amount: int
    status: str | None = None
    payment_intent: str | None = None
    charge: str | None = None


class BalanceTransaction(msgspec.Struct, frozen=True):
    """Money that left the merchant's balance (below zero), or came back. In the balance's currency."""

    amount: int


class Dispute(msgspec.Struct, frozen=True):
    id: str
    amount: int
    status: str
    payment_intent: str | None = None
    charge: str | None = None
    balance_transactions: list[BalanceTransaction] = []

    @property
    def withdrawn(self) -> bool:
        """Whether its money was withdrawn and not reinstated."""
        return sum(each.amount for each in self.balance_transactions) < 0


class CreditNoteRefund(msgspec.Struct, frozen=True):
    amount_refunded: int = 0


class CreditNote(msgspec.Struct, frozen=True):
    """Its refunds are objects of their own; what it reduces before payment was never paid."""

    id: str
    invoice: str
    status: str
    post_payment_amount: int = 0
    refunds: list[CreditNoteRefund] | None = None

    @property
    def besides_refunds(self) -> int:
        """What was credited to the customer's Stripe balance, or refunded outside of Stripe."""
        return self.post_payment_amount - sum(each.amount_refunded for each in self.refunds or ())
