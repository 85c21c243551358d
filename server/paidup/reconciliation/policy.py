"""How the reconciler treats what is old, and how much it may ask of Stripe: from the settings."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from paidup.reconciliation.alarms import UNCLAIMED_AFTER_H
from paidup.reconciliation.pruning import Retention
from paidup.reconciliation.read_budget import DEFAULT_READS_PER_MONTH
from paidup.settings import Settings


class ReconcilerPolicy(msgspec.Struct, frozen=True):
    """`abandoned_after`: when an unpaid top-up is voided. `reads_per_month`: see read_budget.py."""

    retention: Retention = Retention()
    abandoned_after: timedelta = timedelta(hours=23)
    reads_per_month: int = DEFAULT_READS_PER_MONTH
    unclaimed_after_h: int = UNCLAIMED_AFTER_H


DEFAULT_POLICY = ReconcilerPolicy()


def policy_of(settings: Settings) -> ReconcilerPolicy:
    return ReconcilerPolicy(
        Retention(
            timedelta(days=settings.event_payload_days),
            timedelta(days=settings.timeline_days),
            timedelta(days=settings.outbound_events_days),
        ),
        timedelta(hours=settings.abandoned_after_h),
        settings.stripe_reads_per_month,
        settings.unclaimed_alarm_after_h,
    )
