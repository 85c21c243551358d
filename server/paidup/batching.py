"""Batches: one statement does the work of many.

Owns the queues between those who have something to write and one task that writes, which is
there while there is something to do. `BatchExecutor`: callers wait for their result; alone, a call is
made at once, and those that come meanwhile are done by the next. `BackgroundBatcher`: nobody waits, and what
is lost with the process must cost nothing. Refuses to know what is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

LATER_LIMIT = 10_000

T = TypeVar("T")
R = TypeVar("R")


class BatchExecutor(Generic[T, R]):
    """`do` takes several items and returns a result for each, in their order.

    Where it fails for several, each is tried by itself, so that what cannot be done fails alone.
    The queue is bounded by its callers: each waits for its own item. Not for callers within a
    transaction, which the task would take for its own.
    """

    def __init__(self, do: Callable[[Sequence[T]], Awaitable[Sequence[R]]], at_most: int = 100) -> None:
        self._do = do
        self._at_most = at_most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """The result for `item`. Raises what `do` raises."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="together")
        return await done

    async def close(self) -> None:
        """Give up what is under way. Nobody may be waiting any more."""
        while self._worker is not None:  # redis-py may swallow a cancellation
            self._worker.cancel()
            await asyncio.wait([self._worker], timeout=0.1)

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[: self._at_most]
                del self._waiting[: self._at_most]
                await self._together(batch)
        finally:
            self._worker = None

    async def _together(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._do([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                await asyncio.gather(*(self._together([each]) for each in batch if not each[1].done()))
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, done), result in zip(batch, results, strict=True):
            if not done.done():  # its caller may have given up
                done.set_result(result)


class BackgroundBatcher(Generic[T]):
    """`do` takes what came in the last `every_s` seconds. What fails, or finds the queue full, is dropped."""

    def __init__(
        self, do: Callable[[Sequence[T]], Awaitable[None]], every_s: float = 0.05, at_most: int = 500
    ) -> None:
        self._do = do
        self._every_s = every_s
        self._at_most = at_most
        self._waiting: list[T] = []
        self._worker: asyncio.Task[None] | None = None

    def add(self, item: T) -> None:
        """Never waits, never raises."""
        if len(self._waiting) >= LATER_LIMIT:
            return
        self._waiting.append(item)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="later")

    async def _work(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._every_s)
                batch = self._waiting[: self._at_most]
                del self._waiting[: self._at_most]
                try:
                    await self._do(batch)
                except Exception as error:
                    log.warning("later_failed", items=len(batch), error=str(error))
        finally:
            self._worker = None
