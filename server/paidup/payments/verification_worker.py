"""Works off the verification queue: waits for slots of the rate limiter, and runs the checks.

One task waits for the next slot, and only then is chosen which invoice it is for. A second task
reports long waits, and starts bulk verification where single checks do not keep up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from paidup.errors import StripeUnavailable
from paidup.payments.verification_queue import VerificationQueue
from paidup.runtime.tasks import cancel_tasks

log = structlog.get_logger(__name__)

MAX_CONCURRENT_CHECKS = 50
SLOT_TIMEOUT_S = 60.0
INSPECT_EVERY_S = 1.0


class CheckResult(NamedTuple):
    """`settled`: nothing is left to check. `used_slot`: a request was made to Stripe.

    `takes_days`: a bank debit is under way.
    """

    settled: bool
    used_slot: bool
    takes_days: bool = False


@dataclass(frozen=True)
class Checks:
    """What the worker calls. Only `acquire_slot` may raise (StripeUnavailable)."""

    acquire_slot: Callable[[float], Awaitable[None]]
    """Waits for a slot of the rate limiter, so many seconds at most."""
    check: Callable[[str], Awaitable[CheckResult]]
    """Verifies one invoice, with the slot that was acquired."""
    check_in_bulk: Callable[[list[str]], Awaitable[None]]
    """Settles those of the invoices, and of all others that wait, that Stripe lists as paid."""


class VerificationWorker:
    def __init__(self, queue: VerificationQueue, checks: Checks) -> None:
        self._queue = queue
        self._checks = checks
        self._loops: list[asyncio.Task[None]] = []
        self._checking: set[asyncio.Task[None]] = set()
        self._bulk: asyncio.Task[None] | None = None

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
            try:
                await self._checks.acquire_slot(SLOT_TIMEOUT_S)
            except StripeUnavailable as error:
                log.info("verification_postponed", error=str(error))
                continue
            except Exception:
                log.exception("slot_failed")  # a bug here must not end verification: customers still wait
                await asyncio.sleep(INSPECT_EVERY_S)
                continue
            self._spawn(self._use_slot())
            while len(self._checking) >= MAX_CONCURRENT_CHECKS:
                await asyncio.wait(self._checking, return_when=asyncio.FIRST_COMPLETED)

    async def _use_slot(self) -> None:
        """Check the next invoice. A check that needed no request passes the slot on to the one after."""
        while (entry := self._queue.next()) is not None:
            result = CheckResult(settled=False, used_slot=True)
            try:
                result = await self._checks.check(entry.invoice)
            finally:
                self._queue.finish(entry, result.settled, result.takes_days)
            if result.used_slot:
                return

    async def _inspect_forever(self) -> None:
        while True:
            await asyncio.sleep(INSPECT_EVERY_S)
            if (self._bulk is None or self._bulk.done()) and (backlog := self._queue.backlog()):
                self._bulk = asyncio.create_task(self._check_in_bulk(backlog), name="verification-bulk")

    async def _check_in_bulk(self, invoices: list[str]) -> None:
        await self._checks.check_in_bulk(invoices)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine, name="verification-check")
        self._checking.add(task)
        task.add_done_callback(self._checking.discard)
