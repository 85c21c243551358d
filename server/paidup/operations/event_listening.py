"""Events from a server, forwarded to an address of the developer's machine: `paidup listen`.

Asks the server by long polling, under the operators' token, so that it works with one that cannot reach
this machine. Nothing is set up there: the events are signed here, with a secret of this process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
import msgspec

from paidup.errors import InvalidInput, NotFound, PaidupError, StorageUnavailable
from paidup.operations.event_stream import StreamedEvent, StreamPage, Triggered
from paidup.outbound.signing import signed_headers
from paidup.runtime.clock import now

WAIT_S = 10
"""How long the server holds a request."""
REQUEST_TIMEOUT_S = 30.0
FORWARD_TIMEOUT_S = 15.0
"""As long as the dispatcher waits for an endpoint."""
LONGEST_PAUSE_S = 10.0
MAX_SHOWN = 300
"""Characters of an answer that is an error."""


class WrongServer(PaidupError):
    """The server has answered that it never will do this: a wrong token, a wrong address."""


class OperatorClient:
    """Calls the operators' API of one server."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}

    async def events(self, after: int | None, have: int, types: Sequence[str]) -> StreamPage:
        """The events after this id, as soon as there are any. Raises WrongServer, StorageUnavailable."""
        query = {"wait_s": str(WAIT_S), "have": str(have), "types": ",".join(types)}
        query |= {} if after is None else {"after": str(after)}
        body = await self._call("GET", "events", params=query)
        return msgspec.json.decode(body, type=StreamPage)

    async def trigger(self, event_type: str, endpoint: str | None, account: str | None) -> Triggered:
        """Have the server make an example of an event. Raises WrongServer, StorageUnavailable."""
        wanted = {"type": event_type, "endpoint": endpoint, "account": account}
        given = {name: value for name, value in wanted.items() if value is not None}
        return msgspec.json.decode(await self._call("POST", "events/test", json=given), type=Triggered)

    async def _call(self, method: str, path: str, **options: object) -> bytes:
        try:
            async with self._http.request(
                method,
                f"{self._url}/operators/api/{path}",
                headers=self._headers,
                **options,  # type: ignore[arg-type]
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StorageUnavailable(f"{self._url} does not answer: {_named(error)}") from error
        if response.status >= 500 or response.status == 429:
            raise StorageUnavailable(f"{self._url} answers {response.status}")
        if response.status >= 400:
            raise _refusal(response.status, body, self._url)
        return body


def _refusal(status: int, body: bytes, url: str) -> PaidupError:
    if status == 401:
        return WrongServer(f"{url} does not know this token: give its OPERATOR_TOKEN, or --token.")
    try:
        detail = str(msgspec.json.decode(body)["detail"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        detail = ""
    if status == 404 and detail in ("", "Not Found"):
        return WrongServer(
            f"{url} has no operators' API: is OPERATOR_TOKEN set there, or does a proxy hide /operators?"
        )
    kind = NotFound if status == 404 else InvalidInput
    return kind(detail or f"{url} answers {status}")


class Listener:
    """Forwards events. `say` prints a line."""

    def __init__(
        self,
        client: OperatorClient,
        http: aiohttp.ClientSession,
        forward_to: str,
        secret: str,
        say: Callable[[str], None],
    ) -> None:
        self._client = client
        self._http = http
        self._forward_to = forward_to
        self._secret = secret
        self._say = say

    async def run(self, types: Sequence[str]) -> None:
        """Forward each event once, in the order in which the server has them, until it is cancelled.

        Raises WrongServer, InvalidInput (a type). While the server does not answer, it asks again.
        """
        async for event in self._events(types):
            await self._forward(event)

    async def _events(self, types: Sequence[str]) -> AsyncIterator[StreamedEvent]:
        complete_to: int | None = None
        read: set[int] = set()
        failures = 0
        while True:
            try:
                page = await self._client.events(complete_to, len(read), types)
            except StorageUnavailable as error:
                if failures == 0:
                    self._say(f"{error}; asking again")
                pause_s = min(LONGEST_PAUSE_S, 0.5 * 2.0**failures)
                failures += 1
                await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311
                continue
            failures = 0
            for event in page.events:
                if event.id not in read:
                    yield event
            complete_to = page.complete_to
            read = {each for each in read | {event.id for event in page.events} if each > complete_to}

    async def _forward(self, event: StreamedEvent) -> None:
        self._say(f"{event.created_at:%H:%M:%S}  --> {event.type} [{event.event}]")
        self._say(f"{now():%H:%M:%S}  <-- {await self._post(event)} [{event.event}]")

    async def _post(self, event: StreamedEvent) -> str:
        at = now()
        body = event.body.encode()
        headers = {
            "content-type": "application/json",
            **signed_headers(event.event, at, body, [self._secret]),
        }
        timeout = aiohttp.ClientTimeout(total=FORWARD_TIMEOUT_S)
        try:
            async with self._http.post(
                self._forward_to,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                shown = f"[{response.status}] POST {self._forward_to}"
                if response.status >= 300:
                    beginning = await response.content.read(MAX_SHOWN)
                    text = "".join(each for each in beginning.decode(errors="replace") if each.isprintable())
                    shown += f" {text}"
                return shown
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"[no answer: {_named(error)}] POST {self._forward_to}"


def forward_address(text: str) -> str:
    """The URL to forward to: `localhost:3000/hook` is one of plain HTTP. Raises InvalidInput."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        usable = None
    if not usable:
        raise InvalidInput(f"{text!r} is no address to forward to, such as localhost:3000/hook.")
    return url


@asynccontextmanager
async def http_session() -> AsyncIterator[aiohttp.ClientSession]:
    """The session of these commands."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session:
        yield session


def _named(error: BaseException) -> str:
    return str(error) or type(error).__name__
