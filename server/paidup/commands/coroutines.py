"""How the commands run coroutines. It imports little."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end. Ctrl-C is exit code 130."""
    with suppress(KeyboardInterrupt):
        return asyncio.run(coroutine)
    raise SystemExit(130)
