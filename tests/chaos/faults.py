"""Fault injection for the chaos test: the sandbox's conditions, and processes that are killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import aiohttp

from tests.chaos.stack import Role, Stack
from tests.support.stripe_sandbox import StripeSide


async def vary_conditions(stripe_side: StripeSide, chance: Random, counts: Counter[str]) -> None:
    """Until cancelled: new conditions every second or two, now and then a short outage of Stripe."""
    while True:
        outage = chance.choice(("rate_limited", "api_down", None, None, None, None))
        if outage:
            await stripe_side.conditions(**{outage: True})
            counts[outage] += 1
            await asyncio.sleep(0.2 + chance.random() * 0.8)
            await stripe_side.conditions(**{outage: False})
        await stripe_side.conditions(**_conditions(chance))
        counts["changes of conditions"] += 1
        await asyncio.sleep(0.5 + chance.random())


def _conditions(chance: Random) -> dict[str, Any]:
    return {
        "webhook_delay_ms": chance.choice((0, 0, 200, 3000)),
        "webhook_jitter_ms": chance.choice((0, 500)),
        "webhook_drop": chance.choice((0.0, 0.2, 0.6, 1.0)),
        "webhook_duplicates": chance.choice((0, 1, 2)),
        "webhook_shuffle": chance.random() < 0.5,
        "webhook_api_version": chance.choice((None, None, None, "2024-06-20")),
        "api_latency_ms": chance.choice((0, 20, 200)),
        "api_error_rate": chance.choice((0.0, 0.1, 0.3)),
        "api_lost_reply_rate": chance.choice((0.0, 0.1, 0.3)),
        "invoice_lag_ms": chance.choice((0, 0, 800)),
        "processing_ms": chance.choice((0, 0, 500)),
    }


class Killer:
    """Kills something, again and again. `counts` says how often what; `settled` what the dead had counted."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession, chance: Random) -> None:
        self.counts: Counter[str] = Counter()
        self.settled: Counter[str] = Counter()
        self._stack = stack
        self._http = http
        self._chance = chance
        self._ways: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "server": (5, self._server),
            "worker": (3, self._worker),
            "Valkey restarted": (2, stack.restart_valkey),
        }
        if stack.postgres is not None:
            self._ways["connections cut"] = (2, stack.cut_connections)
            self._ways["PostgreSQL restarted"] = (1, stack.restart_postgres)

    async def strike(self, every_s: float) -> None:
        """Until cancelled; a restart that is under way is completed first."""
        names = list(self._ways)
        weights = [weight for weight, _ in self._ways.values()]
        first_round = names.copy()  # each way at least once, then at random
        self._chance.shuffle(first_round)
        while True:
            await asyncio.sleep(every_s * (0.5 + self._chance.random()))
            name = first_round.pop() if first_round else self._chance.choices(names, weights)[0]
            self.counts[name] += 1
            await asyncio.shield(asyncio.ensure_future(self._ways[name][1]()))

    async def _server(self) -> None:
        victim = self._chance.choice(self._stack.servers)
        await self.read_counters(victim)
        victim.kill()

    async def _worker(self) -> None:
        self._chance.choice(self._stack.workers).kill()

    async def read_counters(self, server: Role) -> None:
        """Add what this server has counted of settlements; called once in a life, at its end."""
        try:
            async with self._http.get(f"{server.url}/metrics", timeout=_SOON) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return
        for line in text.splitlines():
            if line.startswith("paidup_settlements_total"):
                labels, _, value = line.rpartition(" ")
                outcome = labels.partition('outcome="')[2].partition('"')[0]
                self.settled[outcome] += int(float(value))


_SOON = aiohttp.ClientTimeout(total=0.3)
