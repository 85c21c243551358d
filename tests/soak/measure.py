"""What is measured of a server in a soak, each second, and what is concluded from it."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import psutil  # type: ignore[import-untyped]
from redis.asyncio import Redis

from tests.bench.rig import Rig, Server

POOLS = 60
"""Connections that are opened on demand and kept, none of them a customer's: 20 to the database, and to Redis
as many as ever published at the same moment."""
GONE_WITHIN_S = 20.0
QUIET_S = 3.0
"""After everybody has gone: so long nobody may ask Stripe anything any more."""
SOCKETS = re.compile(rb'^paidup_sockets\{kind="\w+",transport="\w+"\} ([0-9.]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    at_s: float
    came: int
    paid: int
    uss: int
    """Memory of the server's process alone, in bytes."""
    rss: int
    descriptors: int
    sockets: int
    """As the server itself counts them."""
    channels: int
    """Redis channels of invoices and accounts that somebody subscribes."""
    asked: int
    """Requests to Stripe until now."""


class Meter:
    """Samples of one server; `counts` gives how many came and how many paid until now."""

    def __init__(
        self, rig: Rig, server: Server, http: aiohttp.ClientSession, counts: Callable[[], tuple[int, int]]
    ) -> None:
        self.samples: list[Sample] = []
        self._stripe = rig.stripe
        self._redis_path = rig.redis
        self._url = f"http://127.0.0.1:{server.port}/metrics"
        self._process = psutil.Process(server.pid)
        self._http = http
        self._counts = counts
        self._began = time.monotonic()

    async def run(self) -> None:
        """A sample each second. Runs until cancelled."""
        while True:
            self.samples.append(await self.sample())
            await asyncio.sleep(1)

    async def sample(self) -> Sample:
        async with Redis(unix_socket_path=self._redis_path) as redis, self._http.get(self._url) as response:
            counted = SOCKETS.findall(await response.read())
            channels = [
                name
                for kind in ("invoice", "account")
                for name in await redis.pubsub_channels(f"paidup:{kind}:*")
            ]
        memory = self._process.memory_full_info()
        return Sample(
            time.monotonic() - self._began,
            *self._counts(),
            memory.uss,
            memory.rss,
            self._process.num_fds(),
            int(sum(map(float, counted))),
            len(channels),
            self._stripe.asked.value,
        )

    async def when_quiet(self, begin: Sample) -> Sample:
        """The last sample: once nothing is left of anybody, or when it has taken too long."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while True:
            sample = await self.sample()
            if (not left_behind(begin, sample)) or time.monotonic() > deadline:
                return sample
            await asyncio.sleep(0.2)


def left_behind(begin: Sample, end: Sample) -> list[str]:
    """What is there still of customers who have all gone."""
    found = []
    if end.sockets > begin.sockets:
        found.append(f"{end.sockets} sockets are counted as open")
    if end.channels > begin.channels:
        found.append(f"{end.channels} channels are subscribed")
    if end.descriptors > begin.descriptors + POOLS:
        found.append(f"{end.descriptors} descriptors are open; it began with {begin.descriptors}")
    return found


def growth(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """How much `of` grows with 1,000 activations: a straight line through the second half of the samples."""
    half = samples[len(samples) // 2 :]
    line = statistics.linear_regression([sample.paid for sample in half], [of(sample) for sample in half])
    return line.slope * 1000


def level(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """The median of `of` over the second half."""
    return statistics.median(map(of, samples[len(samples) // 2 :]))
