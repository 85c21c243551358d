"""Batchers: one statement writes what many callers have handed in.

`BatchExecutor`: each caller waits for its result. A single call is made at once, and calls that
arrive meanwhile share the next one. `BackgroundBatcher`: no caller waits, and a crash may lose items.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import structlog

from paidup.runtime.tasks import cancel_tasks

log = structlog.get_logger(__name__)

BACKGROUND_LIMIT = 10_000
AT_ONCE = 4
"""Batches of one executor that are under way at once, where one may be late."""

T = TypeVar("T")
R = TypeVar("R")


class BatchExecutor(Generic[T, R]):
    """`do` takes several items and returns a result for each, in order.

    Where it fails for a batch, it is called for each item by itself, so that one bad item fails alone.
    The queue is bounded by its callers, since each waits for its own item, and by `max_waiting`. An item
    whose caller is cancelled before its turn is left out. With `beside_after_s`, a batch that takes longer
    keeps no later items waiting: they are done beside it, so `do` must not depend on the order.
    Do not call it within a transaction: the batch's task would run inside of it.
    """

    def __init__(
        self,
        do: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        max_items: int = 100,
        max_waiting: int | None = None,
        beside_after_s: float | None = None,
    ) -> None:
        self._do = do
        self._max_items = max_items
        self._max_waiting = max_waiting
        self._beside_after_s = beside_after_s
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        """Of the tasks, those whose batch has taken longer than `beside_after_s`."""

    async def __call__(self, item: T) -> R:
        """The result for `item`. Raises what `do` raises, and asyncio.QueueFull."""
        if self._max_waiting is not None and len(self._waiting) >= self._max_waiting:
            raise asyncio.QueueFull
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._start()
        return await done

    @property
    def idle(self) -> bool:
        """Whether no batch is under way or about to begin."""
        return not self._tasks

    async def close(self) -> None:
        """Cancel the batches under way. No caller may be waiting any more."""
        await cancel_tasks(*self._tasks, again_after_s=0.1)

    def _start(self) -> None:
        """Start a task for what waits, unless there is one that will soon go on to it."""
        if self._waiting and self._tasks == self._late and len(self._tasks) < AT_ONCE:
            self._tasks.add(asyncio.create_task(self._run(), name="batch-executor"))

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._waiting:
                batch = self._waiting[: self._max_items]
                del self._waiting[: self._max_items]
                if batch := [each for each in batch if not each[1].done()]:  # else its caller was cancelled
                    with self._noting_late(task):
                        await self._run_batch(batch)
        finally:
            self._tasks.discard(task)

    @contextmanager
    def _noting_late(self, task: asyncio.Task[None]) -> Iterator[None]:
        if self._beside_after_s is None:
            yield
            return

        def note() -> None:
            self._late.add(task)
            self._start()

        timer = asyncio.get_running_loop().call_later(self._beside_after_s, note)
        try:
            yield
        finally:
            timer.cancel()
            self._late.discard(task)

    async def _run_batch(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._do([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                await asyncio.gather(*(self._run_batch([each]) for each in batch if not each[1].done()))
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, done), result in zip(batch, results, strict=True):
            if not done.done():  # its caller may have been cancelled
                done.set_result(result)


class BackgroundBatcher(Generic[T]):
    """`do` takes the items of the last `every_s` seconds. Items that fail or do not fit are dropped."""

    def __init__(
        self, do: Callable[[Sequence[T]], Awaitable[None]], every_s: float = 0.05, max_items: int = 500
    ) -> None:
        self._do = do
        self._every_s = every_s
        self._max_items = max_items
        self._waiting: list[T] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, item: T) -> None:
        """Never waits, never raises."""
        if len(self._waiting) >= BACKGROUND_LIMIT:
            return
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="background-batcher")

    async def flush(self) -> None:
        """Wait until what was added is done, or dropped."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._every_s)
                batch = self._waiting[: self._max_items]
                del self._waiting[: self._max_items]
                try:
                    await self._do(batch)
                except Exception as error:
                    log.warning("background_batch_failed", items=len(batch), error=str(error))
        finally:
            self._task = None
