"""Computes how many of an invoice's credits its refunds, disputes and credit notes take back or freeze.

Pure: the same facts give the same result in any order.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec


class Effect(StrEnum):
    """What a reversal does to the invoice's credits."""

    NONE = "none"
    FREEZES = "freezes"
    REVERSES = "reverses"


_EFFECTS = {
    # A pending refund has left the merchant's balance. If it fails, the reversal is undone.
    ("refund", "pending"): Effect.REVERSES,
    ("refund", "requires_action"): Effect.REVERSES,
    ("refund", "succeeded"): Effect.REVERSES,
    # An inquiry (warning_*) moves no money.
    ("dispute", "needs_response"): Effect.FREEZES,
    ("dispute", "under_review"): Effect.FREEZES,
    ("dispute", "lost"): Effect.REVERSES,
    ("credit_note", "issued"): Effect.REVERSES,
}

_RANKS = {
    "pending": 0,
    "requires_action": 1,
    "succeeded": 2,
    "failed": 3,
    "canceled": 3,
    "warning_needs_response": 0,
    "warning_under_review": 1,
    "needs_response": 2,
    "under_review": 3,
    "warning_closed": 4,
    "won": 4,
    "lost": 4,
    "prevented": 4,
    "issued": 0,
    "void": 1,
}
"""The order of statuses. Events arrive in any order; a status never goes back."""


_REASONS = {
    ("refund", "pending"): "refunded",
    ("refund", "requires_action"): "refunded",
    ("refund", "succeeded"): "refunded",
    ("refund", "failed"): "the refund did not go through",
    ("refund", "canceled"): "the refund was canceled",
    ("dispute", "warning_needs_response"): "the bank asked about the payment",
    ("dispute", "warning_under_review"): "the bank asked about the payment",
    ("dispute", "warning_closed"): "the bank's question about the payment was answered",
    ("dispute", "needs_response"): "the payment is disputed",
    ("dispute", "under_review"): "the payment is disputed",
    ("dispute", "won"): "the dispute was closed: the payment stands",
    ("dispute", "lost"): "the dispute was lost: the payment was returned",
    ("dispute", "prevented"): "the dispute was closed: the payment stands",
    ("credit_note", "issued"): "credited back",
    ("credit_note", "void"): "the credit note was canceled",
}
"""The reasons shown to the customer. Stripe's reasons are written for the merchant."""


class ReversalFacts(msgspec.Struct, frozen=True):
    """One refund, dispute or credit note: `kind`, Stripe's `status`, minor units."""

    kind: str
    status: str
    amount_minor: int

    @property
    def effect(self) -> Effect:
        return _EFFECTS.get((self.kind, self.status), Effect.NONE)


def reason(kind: str, status: str) -> str:
    """Why credits changed, in text for the customer."""
    return _REASONS.get((kind, status)) or f"{kind} {status}".replace("_", " ")


def is_later(status: str, known: str) -> bool:
    """Whether `status` comes after `known` for one reversal."""
    return _RANKS.get(status, -1) > _RANKS.get(known, -1)


class Claim(msgspec.Struct, frozen=True):
    """How many of an invoice's granted credits are to be taken back (`reversed`) and frozen."""

    reversed: int
    frozen: int
    fully_reversed: bool
    """All of its money was reversed."""


def claim(granted: int, total_minor: int, reversals: Iterable[ReversalFacts], offset: int = 0) -> Claim:
    """In proportion to the money, rounded down; all credits if all of the money was reversed.

    `total_minor` is the invoice's total, whether paid by card or by the customer's Stripe balance. The
    money bought `granted + offset` credits: `offset` were not granted, since a downgrade whose money paid
    a part had left them to the customer. So the part paid in cash takes back what it gave.
    """
    back = disputed = 0
    for reversal in reversals:
        if reversal.effect is Effect.REVERSES:
            back += reversal.amount_minor
        elif reversal.effect is Effect.FREEZES:
            disputed += reversal.amount_minor
    bought = granted + offset
    taken = min(granted, _share(bought, back, total_minor))
    withheld = min(granted, _share(bought, back + disputed, total_minor)) - taken
    return Claim(taken, withheld, 0 < total_minor <= back)


def _share(bought: int, amount_minor: int, total_minor: int) -> int:
    if total_minor <= 0:
        return 0
    return bought * min(amount_minor, total_minor) // total_minor
