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
    # An appeal is against a loss: the money stays away until it is won.
    ("dispute", "appeal_needs_response"): Effect.REVERSES,
    ("dispute", "appeal_under_review"): Effect.REVERSES,
    ("dispute", "lost"): Effect.REVERSES,
    ("credit_note", "issued"): Effect.REVERSES,
}

_APPEALS = ("appeal_needs_response", "appeal_under_review")
_NO_EFFECT = ("warning_needs_response", "warning_under_review", "warning_closed", "won")
"""Statuses of a dispute that leave the credits alone. In any other, the money that was withdrawn counts."""

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
    ("dispute", "appeal_needs_response"): "the lost dispute can be appealed",
    ("dispute", "appeal_under_review"): "the lost dispute is being appealed",
    ("dispute", "won"): "the dispute was closed: the payment stands",
    ("dispute", "lost"): "the dispute was lost: the payment was returned",
    ("dispute", "prevented"): "the dispute was settled before it was opened",
    ("credit_note", "issued"): "credited back",
    ("credit_note", "void"): "the credit note was canceled",
}
"""The reasons shown to the customer. Stripe's reasons are written for the merchant."""


class ReversalFacts(msgspec.Struct, frozen=True):
    """One refund, dispute or credit note: `kind`, Stripe's `status`, minor units.

    `withdrawn`: whether a dispute's money has left the merchant's balance and is not back. None: unknown.
    """

    kind: str
    status: str
    amount_minor: int
    withdrawn: bool | None = None

    @property
    def effect(self) -> Effect:
        if self.kind == "dispute":
            return self._effect_of_dispute()
        return _EFFECTS.get((self.kind, self.status), Effect.NONE)

    def _effect_of_dispute(self) -> Effect:
        if self.status in _APPEALS and self.withdrawn is False:
            return Effect.FREEZES  # the bank's appeal, or the money is back meanwhile: undecided
        if known := _EFFECTS.get(("dispute", self.status)):
            return known
        if self.status in _NO_EFFECT or not self.withdrawn:
            return Effect.NONE
        # A prevented dispute is final. Of a status that Stripe has added since, we know only the money.
        return Effect.REVERSES if self.status == "prevented" else Effect.FREEZES


def reason(kind: str, status: str) -> str:
    """Why credits changed, in text for the customer."""
    return _REASONS.get((kind, status)) or f"{kind} {status}".replace("_", " ")


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
