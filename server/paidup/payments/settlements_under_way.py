"""The invoices that this process is settling by what an event says, for those who would verify them.

A lease changes the invoice's row. Taken between the settlement's read and its write, it would have the
settlement made once more, on locked rows; and Stripe would be asked for what is known a moment later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

WITHIN_S = 0.5
"""How long a verification waits for a settlement, which takes some milliseconds."""


class SettlementsUnderWay:
    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Future[None]] = {}
        """By invoice: the settlement that began last. Those of the same moment share a transaction."""

    @contextmanager
    def settling(self, invoice: str) -> Iterator[None]:
        """The block settles this invoice."""
        end = self._ends[invoice] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            end.set_result(None)
            if self._ends.get(invoice) is end:
                del self._ends[invoice]

    async def ended(self, invoice: str) -> bool:
        """Wait until the settlement of this invoice, if there is one, has ended: `WITHIN_S` at most.

        Returns whether there was one.
        """
        end = self._ends.get(invoice)
        if end is not None:
            await asyncio.wait([end], timeout=WITHIN_S)
        return end is not None
