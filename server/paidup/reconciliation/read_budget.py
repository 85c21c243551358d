"""How many of a month's reads are used up: what is allowed, the alarm, and when the scans stop."""

from __future__ import annotations

from datetime import datetime

import msgspec

from paidup.db.connection import storage_errors
from paidup.db.models import Invoice, StripeReads
from paidup.db.unit_of_work import count_up_to
from paidup.stripe_api.read_count import month_of

READS_A_PAYMENT = 500
"""What Stripe allows on average: https://docs.stripe.com/rate-limits#api-read-request-allocation"""
ALARM_AT = 0.8
DEFAULT_READS_PER_MONTH = 10_000


class ReadUse(msgspec.Struct, frozen=True):
    """`allowed` is the setting, or what this month's payments allow, whichever is more."""

    month: str
    reads: int
    allowed: int

    @property
    def alarming(self) -> bool:
        return self.reads >= self.allowed * ALARM_AT

    @property
    def used_up(self) -> bool:
        return self.reads >= self.allowed


async def read_use(reads_per_month: int, at: datetime) -> ReadUse:
    """The reads of the month of `at`, by all processes. Raises StorageUnavailable."""
    month = month_of(at)
    with storage_errors():
        row = await StripeReads.get_or_none(month=month)
        use = ReadUse(month, row.reads if row else 0, reads_per_month)
        if not use.alarming:
            return use
        begin = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        # No more than matter: with these, the reads are few.
        most = int(use.reads / (READS_A_PAYMENT * ALARM_AT)) + 1
        payments = await count_up_to(most, Invoice, "settled_at >= $1 AND settled_at <= $2", begin, at)
    return msgspec.structs.replace(use, allowed=max(reads_per_month, READS_A_PAYMENT * payments))
