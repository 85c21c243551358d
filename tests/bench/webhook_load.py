"""The load of `tests.bench.webhooks`: `python -m tests.bench.webhook_load PORT AT_ONCE SECRET [OUTCOME]`.

Signs what comes on standard input (one list of bodies a line, as JSON), delivers it over so many connections
that stay open, each with one request under way, and prints the seconds from the first request to the last
answer. The bodies of one list are delivered one after the other. Each is answered 200, with OUTCOME.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import time
from typing import Any

import uvloop

WITHIN_S = 120.0


class _Sender(asyncio.Protocol):
    """One connection: the next request once the last was answered."""

    def __init__(self, lists: list[list[bytes]], expected: bytes) -> None:
        self._lists = lists
        self._expected = expected
        self._requests: list[bytes] = []
        self._answer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._answer.endswith(b"}"):
            return
        if b" 200 OK\r\n" in self._answer and self._expected in self._answer:
            self.send()
        else:
            self.done.set_exception(AssertionError(self._answer.decode()))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("closed by the server"))

    def send(self) -> None:
        self._answer = b""
        if not self._requests and self._lists:
            self._requests = self._lists.pop()
        if self._requests:
            self._transport.write(self._requests.pop(0))
        else:
            self.done.set_result(None)


async def _deliver(lists: list[list[bytes]], expected: bytes, port: int, at_once: int) -> float:
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Sender(lists, expected), "127.0.0.1", port)
        for _ in range(at_once)
    ]
    began = time.perf_counter()
    for _, sender in made:
        sender.send()
    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(*(sender.done for _, sender in made))
    return time.perf_counter() - began


def _request(body: bytes, secret: str) -> bytes:
    moment = int(time.time())
    signature = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    head = (
        "POST /webhooks/stripe HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Stripe/1.0\r\nAccept: */*\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"Stripe-Signature: t={moment},v1={signature}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    port, at_once, secret, *outcome = sys.argv[1:]
    lists = [[_request(body.encode(), secret) for body in json.loads(line)] for line in sys.stdin]
    expected = f'"{outcome[0]}"' if outcome else '"received":true'
    print(uvloop.run(_deliver(lists, expected.encode(), int(port), int(at_once))))


if __name__ == "__main__":
    main()
