"""Sends one event to one endpoint: bounded in time and size, and to no address that it must not reach.

No redirect is followed. Any status from 200 to 299 means that the event has arrived, whatever the body is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec

from paidup.domain.endpoint_urls import url_problem
from paidup.outbound.addresses import PrivateAddress, public_socket
from paidup.runtime.clock import now
from paidup.runtime.outgoing import DIRECT, Outgoing, without_password

TIMEOUT_S = 15.0
MAX_ANSWER = 16 * 1024
"""How much of an answer is read. What is longer costs the connection."""
BODY_WITHIN_S = 2.0
"""How long the body of an answer may take, whose status is known."""
KEPT = 1024
"""How much of an answer operators see."""
USER_AGENT = "Paidup-Events/1"


class Answer(msgspec.Struct, frozen=True):
    """How one attempt went. `status` None: no answer came; `error` says why, in a few words."""

    status: int | None = None
    body: str | None = None
    error: str | None = None
    retry_after_s: float | None = None
    duration_ms: int = 0

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """`private_addresses`: whether plain http and private addresses are allowed."""

    def __init__(
        self, outgoing: Outgoing = DIRECT, private_addresses: bool = False, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._outgoing = outgoing
        self._private = private_addresses
        self._timeout_s = timeout_s
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Raises OSError if the CA file cannot be read."""
        self._direct = self._session(guarded=not self._private)
        # What a name leads to is the proxy's to decide: it is asked for the name.
        self._proxied = self._session(guarded=False)

    async def close(self) -> None:
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """One attempt. Never raises, except when cancelled."""
        began = time.monotonic()
        if problem := url_problem(url, self._private):
            return Answer(error=problem[:200])
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._post(url, body, headers)
        except TimeoutError:
            answer = Answer(error=f"no answer within {self._timeout_s:g} s")
        except PrivateAddress as error:
            answer = Answer(error=str(error)[:200])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            answer = Answer(error=_in_words(error))
        return msgspec.structs.replace(answer, duration_ms=round((time.monotonic() - began) * 1000))

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        proxy = self._outgoing.proxy_for(url)
        session = self._proxied if proxy else self._direct
        assert session is not None, "the sender is not open"
        async with session.post(
            url, data=body, headers=headers, proxy=proxy, allow_redirects=False
        ) as response:
            return Answer(
                response.status,
                await _beginning(response),
                None if response.ok and response.status < 300 else f"answered {response.status}",
                _retry_after(response.headers.get("Retry-After")),
            )

    def _session(self, guarded: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # the dispatcher limits it
            ssl=self._outgoing.tls(),
            socket_factory=public_socket if guarded else None,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={
                "Content-Type": "application/json",
                "User-Agent": USER_AGENT,
                "Accept-Encoding": "identity",
            },
        )


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The beginning of the answer's body, as text. The rest is not read: its connection is closed."""
    read = b""
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            while len(read) < MAX_ANSWER:
                part = await response.content.read(MAX_ANSWER - len(read))
                if not part:
                    break
                read += part
            else:
                response.close()
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()
    return read[:KEPT].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _retry_after(header: str | None) -> float | None:
    """Seconds, from a number or a date; None where the header is missing or neither."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header.strip()[:9])
    try:
        at: datetime = parsedate_to_datetime(header)
    except (ValueError, IndexError):
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now()).total_seconds())


def _in_words(error: Exception) -> str:
    """What went wrong, for operators; without what a proxy's address holds."""
    cause = error.__cause__ if isinstance(error.__cause__, PrivateAddress) else error
    text = str(cause) if isinstance(cause, PrivateAddress) else f"{type(cause).__name__}: {cause}"
    return without_password(text)[:200]
