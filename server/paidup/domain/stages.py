"""The stages of an activation: what a screen shows, and in which order. docs/protocol.md has the table.

Nobody is told that their payment is safe unless Stripe shows one. A row says what Stripe said last; a
session adds only `verifying`, at its start, until Stripe has answered once: the row may be older than
the payment.

    verifying -> awaiting_payment -> (verifying -> delayed -> provisioning ->) active
                 action_required, processing, failed, void, unclaimed
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from paidup.domain.decisions import InvoiceStatus

DELAYED_AFTER = timedelta(seconds=30)
"""How long after a payment was seen the stage becomes `delayed`. The same value is in `paidup.js`."""


class Stage(StrEnum):
    """A finer status, for display."""

    WAITING = "waiting"
    """Nothing is known yet: a client's stage before the first status. Servers of 0.1 send it, too."""
    VERIFYING = "verifying"
    AWAITING_PAYMENT = "awaiting_payment"
    ACTION_REQUIRED = "action_required"
    PROCESSING = "processing"
    DELAYED = "delayed"
    PROVISIONING = "provisioning"
    """Credited, while the SaaS's own backend is told: see docs/provisioning.md."""
    ACTIVE = "active"
    FAILED = "failed"
    VOID = "void"
    UNCLAIMED = "unclaimed"
    """Of Checkout Sessions only: paid, and not assigned to an account yet."""


_STAGES = {
    InvoiceStatus.OPEN: Stage.AWAITING_PAYMENT,
    InvoiceStatus.REQUIRES_ACTION: Stage.ACTION_REQUIRED,
    InvoiceStatus.PROCESSING: Stage.PROCESSING,
    InvoiceStatus.ACTIVE: Stage.ACTIVE,
    InvoiceStatus.FAILED: Stage.FAILED,
    InvoiceStatus.VOID: Stage.VOID,
    InvoiceStatus.REVERSED: Stage.VOID,
}
_BEFORE_A_PAYMENT = frozenset({Stage.AWAITING_PAYMENT, Stage.ACTION_REQUIRED, Stage.FAILED})


def stage_of(
    status: InvoiceStatus, payment_seen_at: datetime | None = None, at: datetime | None = None
) -> Stage:
    """The stage of a row at the time `at`. `payment_seen_at`: it is paid, and not credited yet."""
    if payment_seen_at is None or status is not InvoiceStatus.OPEN:
        return _STAGES[status]
    return Stage.DELAYED if at is not None and at - payment_seen_at >= DELAYED_AFTER else Stage.VERIFYING


def is_provisioning(status: InvoiceStatus, until: datetime | None, at: datetime) -> bool:
    """Whether a row that is active is not shown as such yet. `until`: its `provisioning_until`."""
    return until is not None and status is InvoiceStatus.ACTIVE and at < until


def opening_stage(row: Stage, answered: bool, checking: bool) -> Stage:
    """The first stage of a session. `answered`: Stripe was asked since it was opened; `checking`: it is now.

    Until then, what a row says of a payment that was not made is not repeated.
    """
    unsure = row is Stage.AWAITING_PAYMENT or (checking and row in _BEFORE_A_PAYMENT)
    return Stage.VERIFYING if unsure and not answered else row
