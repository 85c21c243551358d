"""Counts the reads of Stripe's API in one row for each month, for all processes.

Stripe allows on average 500 reads for each transaction over 30 days, with a floor of 10,000 a month:
https://docs.stripe.com/rate-limits#api-read-request-allocation. What a process has counted is
added every few seconds, so a process that is killed loses a few seconds of its count.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime

import structlog

from paidup.db.bulk import execute
from paidup.db.connection import storage_errors
from paidup.errors import StorageUnavailable
from paidup.runtime.clock import now

log = structlog.get_logger(__name__)

FLUSH_EVERY_S = 2.0
READS = frozenset({"retrieve", "list", "lines"})
"""How the names of the endpoints end that read."""

_ADD = (
    "INSERT INTO stripe_reads (month, reads) VALUES ($1, $2)"
    " ON CONFLICT (month) DO UPDATE SET reads = stripe_reads.reads + excluded.reads"
)


class ReadCounter:
    def __init__(self) -> None:
        self._uncounted: Counter[str] = Counter()

    def note(self, endpoint: str) -> None:
        """Count a request to this endpoint, if it reads. Never waits, never raises."""
        if endpoint.rpartition(".")[2] in READS:
            self._uncounted[month_of(now())] += 1

    async def flush(self) -> None:
        """Add what was counted to the rows. Where the database is away, it is kept for the next time."""
        for month, reads in list(self._uncounted.items()):
            try:
                with storage_errors():
                    await execute(_ADD, month, reads, durable=False)
            except StorageUnavailable as error:
                log.info("reads_not_counted_yet", error=str(error))
                return
            self._uncounted[month] -= reads
        self._uncounted = +self._uncounted

    async def flush_forever(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush()


def month_of(at: datetime) -> str:
    """The month in UTC, as `2026-11`."""
    return f"{at:%Y-%m}"
