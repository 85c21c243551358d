"""The invoices that this process is settling by what an event says, for those who would verify them.

A lease changes the invoice's row. Taken between the settlement's read and its write, it would have the
settlement made once more, on locked rows; and Stripe would be asked for what is known a moment later.
Stripe's other events of the payment come at the same moment: their statements give way to a settlement that
a customer waits for, since they share the event loop with it and, on SQLite, the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterator
from contextlib import contextmanager

WITHIN_S = 0.5
"""How long a verification waits for a settlement, which takes some milliseconds."""
GIVE_WAY_S = 0.02
"""How long statements that no customer waits for give way to settlements."""


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

    async def give_way(self, invoices: Container[str]) -> None:
        """Wait until those of these invoices have ended that are under way now: `GIVE_WAY_S` at most."""
        ends = [end for invoice, end in self._ends.items() if invoice in invoices]
        if ends:
            await asyncio.wait(ends, timeout=GIVE_WAY_S)

    def end_of(self, invoice: str) -> asyncio.Future[None] | None:
        """Done when the settlement of this invoice has ended. None where there is none."""
        return self._ends.get(invoice)

    async def ended(self, invoice: str) -> bool:
        """Wait until the settlement of this invoice, if there is one, has ended: `WITHIN_S` at most.

        Returns whether there was one.
        """
        end = self.end_of(invoice)
        if end is not None:
            await asyncio.wait([end], timeout=WITHIN_S)
        return end is not None
