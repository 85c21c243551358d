"""Cuts a coroutine off at its n-th await, as a deadline that passes or a process that ends does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Cut(Awaitable[T], Generic[T]):
    """A coroutine whose task is cancelled at its `at`-th await."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], at: int) -> None:
        self._coroutine = coroutine
        self._at = at

    def __await__(self) -> Generator[Any, None, T]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._coroutine.__await__()
        awaited = 0
        thrown: BaseException | None = None
        while True:
            try:
                pending = next(steps) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                result: T = end.value
                return result
            if awaited == self._at:
                task.cancel()
            awaited, thrown = awaited + 1, None
            try:
                yield pending
            except BaseException as error:
                thrown = error


async def cut_off(coroutine: Coroutine[Any, Any, T], at: int) -> T | None:
    """Its result, or None where it came to that many awaits and was cancelled."""

    async def run() -> T:
        return await _Cut(coroutine, at)

    try:
        return await asyncio.create_task(run())
    except asyncio.CancelledError:
        return None
