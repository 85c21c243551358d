"""How the reconciler treats what is old: from the settings."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from paidup.reconciliation.pruning import Retention
from paidup.settings import Settings


class ReconcilerPolicy(msgspec.Struct, frozen=True):
    """`abandoned_after`: when an unpaid top-up is voided."""

    retention: Retention = Retention()
    abandoned_after: timedelta = timedelta(hours=23)


DEFAULT_POLICY = ReconcilerPolicy()


def policy_of(settings: Settings) -> ReconcilerPolicy:
    return ReconcilerPolicy(
        Retention(timedelta(days=settings.event_payload_days), timedelta(days=settings.timeline_days)),
        timedelta(hours=settings.abandoned_after_h),
    )
