"""Reads of a row, and of what belongs to it, by its key: those asked for together share a statement.

One that comes while none is under way is made at once, by its caller: a task for it costs as much as half
of the statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from paidup.db.connection import storage_errors
from paidup.runtime.batching import BatchExecutor

WITHIN_S = 10.0
"""For how long a caller waits until its row is read: those that came before are read first."""
BESIDE_AFTER_S = 1.0
"""A statement that takes longer, on a connection that does not answer, keeps no later requests waiting."""

K = TypeVar("K")
R = TypeVar("R")


class SharedRead(Generic[K, R]):
    """`read` takes several keys, and returns what is found of each, in their order."""

    def __init__(
        self, read: Callable[[Sequence[K]], Awaitable[Sequence[R]]], within_s: float = WITHIN_S
    ) -> None:
        self._together = BatchExecutor(read, beside_after_s=BESIDE_AFTER_S)
        self._read = read
        self._alone = False
        """Whether a caller reads by itself."""
        self._within_s = within_s

    async def __call__(self, key: K) -> R:
        """What is found of `key`. Raises StorageUnavailable. Not for use in a transaction."""
        with storage_errors():
            async with asyncio.timeout(self._within_s):
                if not self._alone and self._together.idle:
                    self._alone = True
                    try:
                        await asyncio.sleep(0)  # those that come at the same moment share the statement
                        if self._together.idle:
                            return (await self._read([key]))[0]
                    finally:
                        self._alone = False
                return await self._together(key)
