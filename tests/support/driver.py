"""A second server process, driven by hand: `python -m tests.support.driver race|die FILE PLACE`.

It opens the services of its environment, as `paidup serve` does, and then either races its
parent into settlement (`race`) or is killed between commit and publish (`die`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.payments.settlement import Settlement
from paidup.runtime.redis_client import RedisClient
from paidup.services import Services, open_services
from paidup.settings import load_settings
from tests.support.factories import ignore_balance

MEET_WITHIN_S = 30.0


class Finish(msgspec.Struct, frozen=True):
    """How one settlement of a race went, and when, by the clock that all processes share."""

    outcome: str
    began: float
    ended: float

    def overlaps(self, other: Finish) -> bool:
        return self.began < other.ended and other.began < self.ended


async def meet(redis: RedisClient, place: str, parties: int = 2) -> None:
    """Return at the same instant as the other parties, give or take a round trip to Redis."""
    if await redis.incr(place) == parties:
        await redis.rpush(f"{place}:go", *["go"] * parties)
    async with asyncio.timeout(MEET_WITHIN_S):
        while await redis.blpop(f"{place}:go", timeout=1) is None:
            pass


async def race(services: Services, facts: list[PaymentFacts], source: Source, place: str) -> list[Finish]:
    """Settle each of `facts` at the instant at which the other process settles the same invoice."""
    finishes = []
    for number, one in enumerate(facts):
        await meet(services.redis, f"{place}:{number}")
        began = time.monotonic()
        settled = await services.settlement.settle(one, source)
        finishes.append(Finish(settled.outcome, began, time.monotonic()))
    return finishes


async def die(services: Services, facts: list[PaymentFacts]) -> None:
    """Settle, and be killed once it is committed, before anybody is told."""

    async def killed(_: StatusMessage) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    settlement = Settlement(
        *(services.catalogue, services.prices, killed, ignore_balance, services.timeline, services.metrics)
    )
    for one in facts:
        await settlement.settle(one, Source.WEBHOOK)


async def main(mode: str, file: Path, place: str) -> None:
    facts = msgspec.json.decode(file.read_bytes(), type=list[PaymentFacts])  # noqa: ASYNC240 - nothing runs yet
    async with open_services(load_settings()) as services:
        if mode == "die":
            await die(services, facts)
        finishes = await race(services, facts, Source.VERIFICATION, place)
    file.with_suffix(".out").write_bytes(msgspec.json.encode(finishes))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
