"""Moments of the demo: its server is replaced, or its Redis freezes, while somebody pays.

Owns the record of them, and the Unix socket on which the supervisor is asked for one by the server's
process. Each deed has its end and none overlaps another. Refuses to know how a deed is done.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from paidup.clock import now
from paidup.embedded_valkey import socket_path

log = structlog.get_logger(__name__)

MOST_KEPT = 50
ANSWER_WITHIN_S = 2.0
LOOK = "look"

Deed = Callable[[], Awaitable[None]]


class Moment(msgspec.Struct):
    """`ended` is None while it lasts. Times are UTC."""

    what: str
    began: datetime
    ended: datetime | None = None


class Told(msgspec.Struct, frozen=True):
    """What can be asked for, and what has happened so far, oldest first."""

    can: list[str] = []
    moments: list[Moment] = []


def address(data_dir: Path) -> Path:
    """Beside the embedded Valkey's socket: its path is short enough, too."""
    return socket_path(data_dir).with_suffix(".demo")


class Moments:
    """The supervisor's side."""

    def __init__(self, deeds: Mapping[str, Deed]) -> None:
        self._deeds = deeds
        self._happened: deque[Moment] = deque(maxlen=MOST_KEPT)
        self._under_way: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def served(self, path: Path) -> AsyncIterator[None]:
        """Ask and answer one line each, for the length of the block; a deed under way is ended with it."""
        server = await asyncio.start_unix_server(self._answer, path)
        os.chmod(path, 0o600)  # its directory is closed to others already
        try:
            yield
        finally:
            server.close()
            with suppress(FileNotFoundError):
                os.unlink(path)
            if self._under_way is not None:
                self._under_way.cancel()
                await asyncio.gather(self._under_way, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                self._begin((await reader.readline()).decode().strip())
                writer.write(msgspec.json.encode(Told(sorted(self._deeds), list(self._happened))) + b"\n")
                await writer.drain()
        writer.close()

    def _begin(self, what: str) -> None:
        if what in self._deeds and (self._under_way is None or self._under_way.done()):
            moment = Moment(what, now())
            self._happened.append(moment)
            self._under_way = asyncio.create_task(self._carry_out(moment), name=what)

    async def _carry_out(self, moment: Moment) -> None:
        try:
            await self._deeds[moment.what]()
        except Exception:
            log.exception("moment_failed", what=moment.what)
        finally:
            moment.ended = now()


async def ask(path: Path, what: str = LOOK) -> Told:
    """The server's side: ask for a moment, or only look. Nothing can be had where no supervisor listens."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"{what}\n".encode())
                return msgspec.json.decode(await reader.readline(), type=Told)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return Told()
