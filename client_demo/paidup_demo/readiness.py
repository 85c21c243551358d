"""Whether a process of the demo answers. To import a client of HTTP would take longer."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

ANSWER_WITHIN_S = 2.0
LOOK_EVERY_S = 0.02
START_WITHIN_S = 60.0


async def answers(url: str) -> bool:
    """Whether a GET of `url` is answered 200."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                asked = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
                writer.write(asked.encode())
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
