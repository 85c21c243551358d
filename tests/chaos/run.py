"""One run: strike, then quiet, then the verdict, and the figures of it all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from paidup.db.models import Invoice
from paidup.services import open_services
from tests.chaos.customers import Customers, Story
from tests.chaos.faults import Killer, vary_conditions
from tests.chaos.stack import Stack
from tests.chaos.verdict import events_by_outcome, ungranted, violations
from tests.support.browser_tab import Unanswered
from tests.support.contracts import checked_session
from tests.support.stripe_sandbox import StripeSide

AFTERWARDS_S = 25.0
"""How long the last may take once a backfill has settled everything."""


@dataclass(frozen=True)
class Plan:
    """How much load and how many faults. `quiet_s`: how long the three sources have afterwards to settle."""

    purchases: int
    seconds: float
    seed: int
    kill_every_s: float
    quiet_s: float


@dataclass
class Report:
    """What a run shows. `figures` are pairs for a person, in order."""

    violations: list[str] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)


async def run(stack: Stack, plan: Plan) -> Report:
    chance = Random(plan.seed)
    timeout = aiohttp.ClientTimeout(total=30)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with checked_session(timeout=timeout, connector=connector) as http:
        stripe_side = StripeSide(stack.sandbox_url, http)
        await stack.come_up(stripe_side)
        supervisor = asyncio.create_task(stack.supervise())
        try:
            await stack.all_ready(http)
            return await _Run(stack, plan, http, stripe_side, chance).run()
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)


class _Run:
    def __init__(
        self,
        stack: Stack,
        plan: Plan,
        http: aiohttp.ClientSession,
        stripe_side: StripeSide,
        chance: Random,
    ) -> None:
        self._stack = stack
        self._plan = plan
        self._http = http
        self._stripe_side = stripe_side
        self._chance = chance
        self._conditions: Counter[str] = Counter()
        self._killer = Killer(stack, http, Random(chance.random()))
        servers = [server.url for server in stack.servers]
        self._customers = Customers(servers, http, stripe_side, Random(chance.random()))

    async def run(self) -> Report:
        visits = [
            self._customers.customer(number, self._plan.seconds * self._chance.random())
            for number in range(self._plan.purchases)
        ]
        try:
            return await self._judged(visits)
        finally:
            for visit in visits:
                visit.cancel()
            await asyncio.gather(*visits, return_exceptions=True)

    async def _judged(self, visits: Sequence[asyncio.Task[None]]) -> Report:
        await self._strike()
        began = time.monotonic()
        await self._stack.all_ready(self._http)
        async with open_services(self._stack.settings) as services:
            natural = await self._quiet(visits, self._plan.quiet_s)
            natural_s = time.monotonic() - began
            backfilled = 0
            if not natural:
                backfilled = await self._backfill(services)
                await self._quiet(visits, AFTERWARDS_S)
            for visit in visits:
                visit.cancel()
            self._blame(await asyncio.gather(*visits, return_exceptions=True))
            paid = await self._stripe_side.paid_invoices()
            found = await violations(self._customers.stories, paid)
            for server in self._stack.servers:
                await self._killer.read_counters(server)
            last = await self._lastettlement(began)
            events = await events_by_outcome()
        return Report(found, self._figures(len(paid), backfilled, natural_s, last, events))

    async def _strike(self) -> None:
        conditions = vary_conditions(self._stripe_side, Random(self._chance.random()), self._conditions)
        troubles = [
            asyncio.create_task(conditions),
            asyncio.create_task(self._killer.strike(self._plan.kill_every_s)),
        ]
        await asyncio.wait(troubles, timeout=self._plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
        for trouble in troubles:
            trouble.cancel()
        for outcome in await asyncio.gather(*troubles, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        await self._stripe_side.control("conditions/reset")

    async def _quiet(self, visits: Sequence[asyncio.Task[None]], within: float) -> bool:
        """Whether in time every customer was done and every paid invoice had its grant."""

        async def all_done() -> bool:
            if not all(visit.done() for visit in visits):
                return False
            return not await ungranted(await self._stripe_side.paid_invoices())

        return await _within(within, all_done)

    async def _backfill(self, services: Any) -> int:
        """What `paidup backfill` does: every paid invoice of Stripe's lists, settled. How many were open."""
        missing = {invoice["id"] for invoice in await ungranted(await self._stripe_side.paid_invoices())}
        settled, after, more = 0, None, True
        while more:
            page = await services.gateway.list_paid_invoices(0, after)
            for shape in page.data:
                if shape.id in missing:
                    await services.reconciler.lists.settle_paid(shape)
                    settled += 1
            more, after = page.has_more, page.data[-1].id if page.data else None
        return settled

    async def _lastettlement(self, quiet_began: float) -> str:
        """What was settled last, and how long after quiet began; below 0 s where it was before."""
        last = await Invoice.filter(settled_at__not_isnull=True).order_by("-settled_at").first()
        if last is None or last.settled_at is None:
            return "never"
        after_s = last.settled_at.timestamp() - (time.time() - (time.monotonic() - quiet_began))
        return f"{after_s:.1f} s ({last.billing_reason}, by {last.settled_via})"

    def _blame(self, outcomes: Sequence[BaseException | None]) -> None:
        for story, outcome in zip(self._customers.stories, outcomes, strict=True):
            if isinstance(outcome, Unanswered):
                story.complaints.append(str(outcome))
            elif isinstance(outcome, Exception):
                raise outcome

    def _figures(
        self, paid: int, backfilled: int, natural_s: float, last: str, events: dict[str, int]
    ) -> list[tuple[str, str]]:
        stories, counts, killer = self._customers.stories, self._customers.counts, self._killer
        fell = sum(role.failed_starts for role in self._stack.roles)
        return [
            ("purchases, renewals", f"{counts['purchases']}, {counts['renewals']}"),
            ("paid invoices at Stripe", str(paid)),
            ("spends answered, refused", f"{counts['spends answered']}, {counts['spends refused']}"),
            ("killed", ", ".join(f"{name} {n}" for name, n in sorted(killer.counts.items())) or "nothing"),
            ("processes that fell over with them", str(fell)),
            ("Stripe", ", ".join(f"{name} {n}" for name, n in sorted(self._conditions.items())) or "fair"),
            ("events by outcome", ", ".join(f"{name} {n}" for name, n in sorted(events.items()))),
            ("settlements refused as done (counted)", str(killer.settled["already_settled"])),
            ("quiet until all was done", f"{natural_s:.1f} s"),
            ("left to the backfill at the end", str(backfilled)),
            ("last settlement after quiet began", last),
            *_waits(stories),
        ]


def _waits(stories: Sequence[Story]) -> Iterator[tuple[str, str]]:
    told = sorted(story.told_at - story.paid_at for story in stories if story.told_at and story.paid_at)
    if told:
        shown = [max(0.0, told[int(len(told) * part)]) for part in (0.5, 0.9, 0.99)]
        yield "told after p50, p90, p99, slowest", ", ".join(f"{s:.1f} s" for s in [*shown, told[-1]])
        yield "watchers, reconnections", f"{len(told)}, {sum(story.reconnects for story in stories)}"


async def _within(seconds: float, done: Callable[[], Awaitable[bool]]) -> bool:
    deadline = time.monotonic() + seconds
    while not (finished := await done()) and time.monotonic() < deadline:
        await asyncio.sleep(0.25)
    return finished
