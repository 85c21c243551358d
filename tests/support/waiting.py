"""Waiting for a condition instead of sleeping: asked at once and often, then less and less often."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def wait_until(predicate: Callable[[], Awaitable[T]], within: float = 30.0) -> T: ...
@overload
async def wait_until(predicate: Callable[[], T], within: float = 30.0) -> T: ...


async def wait_until(predicate: Callable[[], Any], within: float = 30.0) -> Any:
    """The first true answer of `predicate`, asked until `within` seconds have passed; else it fails."""
    began = time.monotonic()
    while True:
        answer = predicate()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        waited = time.monotonic() - began
        if waited > within:
            raise AssertionError(f"not true within {within} s: {inspect.getsource(predicate).strip()}")
        await asyncio.sleep(min(max(0.01, waited / 10), 0.25))
