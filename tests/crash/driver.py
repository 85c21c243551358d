"""Processes that crash on purpose: `python -m tests.crash.driver die STEP` and `... sweep SECONDS`.

`die` serves as `paidup serve` does, and is killed by SIGKILL at one step of the first settlement or
webhook that comes, or of the first webhooks or spends that are handled together. `sweep` is a fresh process
whose clock is ahead, so that everything is due: one round of each sweep, and the end. Production code has no
switch for either; its methods are wrapped here, before anything runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, NoReturn


class Step(StrEnum):
    """Where a process dies, in the order in which a webhook goes through them."""

    BEFORE_STORE = "before-store"
    AFTER_STORE = "after-store"
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    BEFORE_PUBLISH = "before-publish"
    AFTER_PUBLISH = "after-publish"
    BEFORE_MARK = "before-mark"
    AFTER_MARK = "after-mark"


class SpendStep(StrEnum):
    """Where a process dies that makes several spends together."""

    BEFORE_WRITE = "before-write"
    AFTER_WRITE = "after-write"
    """On SQLite: before the commit."""
    AFTER_ALL = "after-all"
    """After the commit, before any caller is answered."""


class BatchStep(StrEnum):
    """Where a process dies that settles several invoices together. On PostgreSQL."""

    BEFORE_BATCH = "before-batch"
    AFTER_BATCH = "after-batch"
    """After the commit, before any webhook is answered."""


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def before(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """The process dies where `owner.name` would begin."""
    _wrap(owner, name, when, after=False)


def after(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """The process dies where `owner.name` has just returned."""
    _wrap(owner, name, when, after=True)


def _wrap(owner: Any, name: str, when: Callable[..., bool], after: bool) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        if after:
            result = await original(*arguments, **named)
            if when(result):
                die()
            return result
        return die()

    setattr(owner, name, wrapped)


def arm(step: Step) -> None:
    """Put the wrapper of `step` where the process will come by."""
    from paidup.payments import settlement, settlement_batches
    from paidup.payments.settlement import Settlement
    from paidup.realtime.hub import Hub
    from paidup.reconciliation.received_events import ReceivedEvents
    from paidup.reconciliation.stripe_events import Events

    match step:
        case Step.BEFORE_STORE:
            before(ReceivedEvents, "__call__")
        case Step.AFTER_STORE:
            setattr(ReceivedEvents, "__call__", _nothing_at_once)  # noqa: B010 - replaced on purpose
            after(Events, "store")
        case Step.BEFORE_COMMIT:
            after(Settlement, "_settle", when=_settled)
            before(settlement_batches, "write_unchanged")  # a statement that commits itself
        case Step.AFTER_COMMIT:
            setattr(settlement, "write_transaction", _committed_then_die)  # noqa: B010
            after(settlement_batches, "write_unchanged", when=any)
        case Step.BEFORE_PUBLISH:
            before(Hub, "publish")
        case Step.AFTER_PUBLISH:
            after(Hub, "publish")
        case Step.BEFORE_MARK:
            after(Settlement, "settle", when=_settled)
            after(Settlement, "settle_received", when=_settled)
        case Step.AFTER_MARK:
            after(Events, "handle")
            after(ReceivedEvents, "__call__", when=bool)


def arm_spends(step: SpendStep) -> None:
    """A spend that comes alone waits until two others do, which then are made together."""
    from paidup.credits import account_writes
    from paidup.credits.move_batches import CreditMoves

    make, write, several = CreditMoves._make_together, account_writes.write_states, False

    async def make_and_die(self: CreditMoves, moves: Any) -> Any:
        nonlocal several
        while len(moves) == 1 and len(self._together._waiting) < 2:
            await asyncio.sleep(0.01)
        several = len(moves) > 1
        answers = await make(self, moves)
        return die() if several else answers

    async def write_and_die(states: Any) -> Any:
        if several and step is SpendStep.BEFORE_WRITE:
            die()
        written = await write(states)
        return die() if several and step is SpendStep.AFTER_WRITE else written

    setattr(CreditMoves, "_make_together", make_and_die)  # noqa: B010 - replaced on purpose
    setattr(account_writes, "write_states", write_and_die)  # noqa: B010


def arm_batch(step: BatchStep) -> None:
    """A webhook that comes alone waits until two others do, which then are settled together."""
    from paidup.db.shared_writes import write_unchanged
    from paidup.payments import settlement_batches
    from paidup.payments.settlement_batches import SettlementBatches

    settle = SettlementBatches._settle

    async def settle_after_two_more(self: SettlementBatches, asked: Any) -> Any:
        while len(asked) == 1 and len(self._together._waiting) < 2:
            await asyncio.sleep(0.01)
        return await settle(self, asked)

    async def write_and_die(units: Any) -> Any:
        if len(units) > 1 and step is BatchStep.BEFORE_BATCH:
            die()
        written = await write_unchanged(units)
        return die() if len(units) > 1 else written

    setattr(SettlementBatches, "_settle", settle_after_two_more)  # noqa: B010 - replaced on purpose
    setattr(settlement_batches, "write_unchanged", write_and_die)  # noqa: B010


async def _nothing_at_once(*_: Any) -> None:
    """Every event is stored before it is handled."""


def _settled(result: Any) -> bool:
    return result is not None and str(result.outcome) == "settled"


@asynccontextmanager
async def _committed_then_die() -> AsyncIterator[Any]:
    from paidup.db.connection import write_transaction
    from paidup.db.models import CreditGrant

    async with write_transaction() as db:
        yield db
    if await CreditGrant.exists():  # not where only the invoice was taken up
        die()


async def sweep() -> None:
    from paidup.services import open_services
    from paidup.settings import load_settings

    async with open_services(load_settings()) as services:
        await services.reconciler.sweep()


def go_ahead(lead: timedelta) -> None:
    """Set the clock, under its `now`: a module that imported it by name has it already."""
    import paidup.runtime.clock

    clock = SimpleNamespace(now=lambda tz: datetime.now(tz) + lead, fromtimestamp=datetime.fromtimestamp)
    setattr(paidup.runtime.clock, "datetime", clock)  # noqa: B010 - replaced on purpose


def main(mode: str, argument: str) -> None:
    if mode == "sweep":
        go_ahead(timedelta(seconds=float(argument)))
        asyncio.run(sweep())
        return
    from paidup.settings import load_settings
    from paidup.uvicorn_server import serve

    if argument in list(SpendStep):
        arm_spends(SpendStep(argument))
    elif argument in list(BatchStep):
        arm_batch(BatchStep(argument))
    else:
        arm(Step(argument))
    serve(load_settings(), workers=1, factory="paidup.uvicorn_server:application")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
