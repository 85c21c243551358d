"""Simulates a browser's network connection, which a test can cut and restore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

NO_AUTHENTICATION = b"\x05\x00"
CONNECTED = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
REFUSED = b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"
BY_IPV4, BY_NAME = 1, 3


class Cable:
    """A SOCKS 5 proxy (RFC 1928) on loopback. While cut, it resets connections and refuses new ones."""

    def __init__(self) -> None:
        self.url = ""
        self.refused = 0
        self._plugged = True
        self._ends: set[asyncio.StreamWriter] = set()

    @classmethod
    @asynccontextmanager
    async def laid(cls) -> AsyncIterator[Self]:
        cable = cls()
        server = await asyncio.start_server(cable._carry, "127.0.0.1", 0)
        cable.url = f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield cable
        finally:
            server.close()
            cable.pull()
            await server.wait_closed()

    def pull(self) -> None:
        self._plugged = False
        for end in self._ends:
            end.transport.abort()

    def plug(self) -> None:
        self._plugged = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._ends.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                host, port = await self._wanted(reader, writer)
                if not self._plugged:
                    self.refused += 1
                    writer.write(REFUSED)
                    return
                far_reader, far = await asyncio.open_connection(host, port)
                ends.append(far)
                self._ends.add(far)
                writer.write(CONNECTED)
                await asyncio.gather(_pump(reader, far), _pump(far_reader, writer))
        finally:
            for end in ends:
                end.close()
            self._ends.difference_update(ends)

    @staticmethod
    async def _wanted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int]:
        """The address that the browser requests, after the greeting."""
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(NO_AUTHENTICATION)
        _, _, _, kind = await reader.readexactly(4)
        assert kind in (BY_IPV4, BY_NAME), kind
        if kind == BY_IPV4:
            host = ".".join(str(byte) for byte in await reader.readexactly(4))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        return host, int.from_bytes(await reader.readexactly(2))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction until either end is closed."""
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
