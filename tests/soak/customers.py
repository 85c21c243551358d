"""The customers of a soak: how each comes, waits and goes; what became of all of them.

Most pay and are told. The others are what a server that stays up for months meets: tabs that are closed, tabs
that come back, connections cut without a goodbye, readers that have stalled, tickets that open nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from random import Random

import aiohttp

from tests.bench.rig import Rig
from tests.bench.stripe_stub import PAID
from tests.support.bulk_fixtures import name_of
from tests.support.paidup import WEBHOOK_SECRET
from tests.support.socket_load import CLOSE, Connection, connect, handshake
from tests.support.stripe_sandbox import sign

WAIT_S = (0.5, 4.0)
TOLD_WITHIN_S = 20.0
AT_ONCE_S = 4.0
"""Those of so many seconds are under way at most: where the machine is too slow, the next ones come later."""
GOING_AWAY = (1001).to_bytes(2, "big")


class Customers:
    """Each is a number of the rig's; `tally` counts how they ended, `wrong` says what should not be."""

    def __init__(self, rig: Rig, port: int, http: aiohttp.ClientSession, chance: Random) -> None:
        self.tally: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._rig = rig
        self._port = port
        self._http = http
        self._chance = chance
        self._kinds: dict[Callable[[int], Coroutine[None, None, str]], int] = {
            self._pays: 70,
            self._closes_the_tab: 10,
            self._comes_back: 6,
            self._vanishes_and_has_paid: 6,
            self._stalls: 3,
            self._is_refused: 5,
        }

    async def come(self, first: int, count: int, rate: float) -> None:
        """So many, at most so many a second, until the last has gone."""
        began, places = time.monotonic(), asyncio.Semaphore(round(AT_ONCE_S * rate))
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(began + number / rate - time.monotonic())
                await places.acquire()
                self.tally["came"] += 1
                group.create_task(self._one(first + number)).add_done_callback(lambda _: places.release())

    async def _one(self, number: int) -> None:
        (kind,) = self._chance.choices(list(self._kinds), list(self._kinds.values()))
        try:
            self.tally[await kind(number)] += 1
        except (OSError, TimeoutError, AssertionError, aiohttp.ClientError) as error:
            self.wrong.append(f"{name_of(number)} {kind.__name__}: {type(error).__name__} {error}")

    # The kinds

    async def _pays(self, number: int) -> str:
        heard: list[bytes] = []
        connection = await self._socket(number, heard.append)
        await self._a_while()
        return await self._told(number, connection, heard)

    async def _comes_back(self, number: int) -> str:
        first = await self._socket(number, lambda _: None)
        await self._a_while()
        await first.drop()
        return await self._pays(number)

    async def _closes_the_tab(self, number: int) -> str:
        connection = await self._socket(number, lambda _: None)
        await self._a_while()
        connection.say(CLOSE, GOING_AWAY)
        await asyncio.wait_for(connection.ended, TOLD_WITHIN_S)
        return "closed"

    async def _vanishes_and_has_paid(self, number: int) -> str:
        connection = await self._socket(number, lambda _: None)
        await self._a_while()
        await connection.drop()
        await self._pay(number)
        return "vanished"

    async def _stalls(self, number: int) -> str:
        """It answers neither a ping nor a close: the server has to disconnect it."""
        connection = await self._socket(number, lambda _: None, polite=False)
        if self._chance.random() < 0.5:
            await self._pay(number)
        await asyncio.wait_for(connection.ended, TOLD_WITHIN_S)
        return "cut"

    async def _is_refused(self, number: int) -> str:
        request = handshake(name_of(number), "no-ticket-of-ours")
        connection = await connect(self._port, request, lambda _: None)
        assert connection.answered.result() == 401, connection.answered
        await asyncio.wait_for(connection.ended, TOLD_WITHIN_S)
        return "refused"

    # Their steps

    async def _socket(self, number: int, hear: Callable[[bytes], None], polite: bool = True) -> Connection:
        connection = await connect(self._port, self._rig.handshakes[number], hear, polite)
        assert connection.answered.result() == 101, connection.answered
        return connection

    async def _a_while(self) -> None:
        await asyncio.sleep(self._chance.uniform(*WAIT_S))

    async def _told(self, number: int, connection: Connection, heard: list[bytes]) -> str:
        await self._pay(number)
        code = await asyncio.wait_for(connection.ended, TOLD_WITHIN_S)
        active = sum(b'"status":"active"' in frame for frame in heard)
        assert (active, code) == (1, 1000), f"heard {active} times, closed with {code}"
        return "told"

    async def _pay(self, number: int) -> None:
        """Stripe has the money, and its webhook comes."""
        self._rig.stripe.states[number] = PAID
        self.tally["paid"] += 1
        body = self._rig.stripe.paid_event(number)
        url = f"http://127.0.0.1:{self._port}/webhooks/stripe"
        headers = {"Stripe-Signature": sign(body, WEBHOOK_SECRET)}
        async with self._http.post(url, data=body, headers=headers) as response:
            assert response.status == 200, response.status
