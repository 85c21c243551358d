"""Works off the verification queue: waits for slots of the rate limiter, and runs the checks.

One task waits for the next slot, and only then is chosen which invoice it is for. Where slots are free,
the check begins while its slot is awaited, so that its lease is there as soon. Where many checks are due
it takes several slots at once, and uses them over the time that they stand for; a first check that comes
meanwhile uses the next one. A second task starts bulk verification where single checks do not keep up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from paidup.errors import StripeUnavailable
from paidup.payments.queue_entries import QueueEntry, loop_time
from paidup.payments.verification_queue import VerificationQueue
from paidup.runtime.tasks import cancel_tasks
from paidup.stripe_api.rate_limiter import SEVERAL_S

log = structlog.get_logger(__name__)

MAX_CONCURRENT_CHECKS = 50
SLOT_TIMEOUT_S = 60.0
INSPECT_EVERY_S = 1.0
WAITED_S = 0.01
"""A slot that takes so long was not free."""
SHORT_S = 1.0
"""How long slots count as short after one was waited for."""


class CheckResult(NamedTuple):
    """`settled`: nothing is left to check. `used_slot`: a request was made to Stripe.

    `takes_days`: a bank debit is under way. `awaits_payment`: Stripe showed no payment, not even one
    that failed, and a list of recent invoices will show it.
    """

    settled: bool
    used_slot: bool
    takes_days: bool = False
    awaits_payment: bool = False


Slot = Callable[[], Awaitable[bool]]
"""Waits for the slot of a check. False: the check is not needed any more, and passes its slot on."""


@dataclass(frozen=True)
class Checks:
    """What the worker calls. Only `acquire_slots` may raise (StripeUnavailable)."""

    acquire_slots: Callable[[float, int], Awaitable[int]]
    """Waits for a slot of the rate limiter, so many seconds at most, or takes several: so many at most."""
    check: Callable[[str, Slot], Awaitable[CheckResult]]
    """Verifies one invoice. No request is made before its slot is there."""
    check_in_bulk: Callable[[list[str]], Awaitable[Collection[str]]]
    """Settles those of the invoices, and of all others that wait, that Stripe lists as paid.

    Returns those that this covers, since the next time finds a payment of theirs sooner than retries would.
    """
    bulk_is_due: Callable[[], bool] = lambda: True
    """Whether `check_in_bulk` would do anything: if not, the invoices need not be gathered."""


class VerificationWorker:
    def __init__(self, queue: VerificationQueue, checks: Checks) -> None:
        self._queue = queue
        self._checks = checks
        self._loops: list[asyncio.Task[None]] = []
        self._checking: set[asyncio.Task[None]] = set()
        self._bulk: asyncio.Task[None] | None = None
        self._short_until = float("-inf")
        """Until when slots are short (the loop's time), so that those taken together are spread."""

    def start(self) -> None:
        self._loops = [
            asyncio.create_task(self._dispatch_forever(), name="verification-dispatch"),
            asyncio.create_task(self._inspect_forever(), name="verification-inspect"),
        ]

    async def close(self) -> None:
        """Cancel the checks under way; their leases expire by themselves."""
        await cancel_tasks(*self._loops, *self._checking, *([self._bulk] if self._bulk else []))

    async def _dispatch_forever(self) -> None:
        while True:
            await self._queue.wait_until_due()
            granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            first = self._begin_early(granted)
            slots = await self._acquire_slots()
            if not granted.done():
                granted.set_result(bool(slots) and first is not None and self._queue.take(first))
            for number in range(slots):
                if number and self._short_until > loop_time():
                    await self._queue.wait_for_first_check(SEVERAL_S / slots)
                if number or not granted.result():
                    self._spawn(self._use_slot(self._queue.next()))
                while len(self._checking) >= MAX_CONCURRENT_CHECKS:
                    await asyncio.wait(self._checking, return_when=asyncio.FIRST_COMPLETED)

    def _begin_early(self, granted: asyncio.Future[bool]) -> QueueEntry | None:
        """Begin the next first check while its slot is awaited. It stays in the queue until then.

        Not where slots are short: other processes could not verify an invoice that is leased and waits.
        """
        first = self._queue.first() if self._short_until <= loop_time() else None
        if first is not None:
            self._spawn(self._use_slot(first, granted))
        return first

    async def _acquire_slots(self) -> int:
        """One for a first check, or several where many checks are due. 0 where none was to be had."""
        began = loop_time()
        try:
            slots = await self._checks.acquire_slots(
                SLOT_TIMEOUT_S, self._queue.due_together(MAX_CONCURRENT_CHECKS)
            )
        except StripeUnavailable as error:
            log.info("verification_postponed", error=str(error))
            slots = 0
        except Exception:
            log.exception("slot_failed")  # a bug here must not end verification: customers still wait
            await asyncio.sleep(INSPECT_EVERY_S)
            slots = 0
        if loop_time() - began > WAITED_S:
            self._short_until = loop_time() + SHORT_S
        return slots

    async def _use_slot(self, entry: QueueEntry | None, granted: asyncio.Future[bool] | None = None) -> None:
        """Check this invoice. A check that needed no request passes the slot on to the one after.

        Until `granted` is done, the slot is awaited. False: the check goes no further, or has ended without
        its slot; its invoice stays in the queue, where another check may have taken it.
        """

        async def slot() -> bool:
            return granted is None or await granted

        while entry is not None:
            result, passes_on = CheckResult(settled=False, used_slot=True), False
            try:
                result = await self._checks.check(entry.invoice, slot)
                passes_on = not result.used_slot and await slot()
            finally:
                if granted is not None and not granted.done():
                    granted.set_result(False)
                if granted is None or granted.result():
                    self._queue.finish(entry, result.settled, result.takes_days, result.awaits_payment)
            entry = self._queue.next() if passes_on else None

    async def _inspect_forever(self) -> None:
        while True:
            await asyncio.sleep(INSPECT_EVERY_S)
            if not (self._bulk is None or self._bulk.done()) or not self._checks.bulk_is_due():
                continue
            if backlog := self._queue.begin_bulk():
                self._bulk = asyncio.create_task(self._check_in_bulk(backlog), name="verification-bulk")

    async def _check_in_bulk(self, invoices: list[str]) -> None:
        self._queue.end_bulk(await self._checks.check_in_bulk(invoices))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine, name="verification-check")
        self._checking.add(task)
        task.add_done_callback(self._checking.discard)
