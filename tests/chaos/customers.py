"""The customers of the chaos test: each buys, pays in their own way, watches or not, spends, renews.

A customer writes down what they were told; whether that was the truth is for `verdict.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from tests.support.browser_tab import UNREACHABLE, Tab
from tests.support.stripe_sandbox import StripeSide

PLANS = {"basic": 500, "advanced": 1200, "pro": 2000}
CARD, CARD_3DS, CARD_DECLINED = "pm_card_visa", "pm_card_authenticationRequired", "pm_card_chargeDeclined"
PAYING = {"card": 50, "3ds": 20, "declined, then another card": 12, "3DS failed, then again": 12, "never": 6}
WATCHING = {"before": 45, "after": 40, "closes the tab": 15}
SPENDS_AT_MOST = 4
RENEWS = 0.25
ANSWERED_WITHIN_S = 200.0


@dataclass
class Spend:
    """A key, what it stood for, and the balance that was acknowledged (None: never a clear yes).

    `unanswered`: requests of this key that are, or were for ever, without an answer.
    """

    key: str
    credits: int
    balance: int | None = None
    refused: bool = False
    unanswered: int = 0


@dataclass
class Story:
    """What one customer did and was told. Times are of the monotonic clock."""

    name: str
    plan: str
    paying: str
    watching: str
    invoice: str = ""
    paid_at: float | None = None
    told_at: float | None = None
    status: str = ""
    renewal: str | None = None
    reconnects: int = 0
    spends: list[Spend] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def watches(self) -> bool:
        return bool(self.invoice) and self.paying != "never" and self.watching != "closes the tab"


class Customers:
    """All customers. They begin spread over the striking time; some spends and renewals come late."""

    def __init__(
        self, servers: list[str], http: aiohttp.ClientSession, stripe_side: StripeSide, chance: Random
    ) -> None:
        self.stories: list[Story] = []
        self.counts: Counter[str] = Counter()
        self._servers = servers
        self._http = http
        self._stripe_side = stripe_side
        self._chance = chance

    def customer(self, number: int, begins_after_s: float) -> asyncio.Task[None]:
        """Customer `number`, begun. Everything they choose comes from one seed."""
        chance = Random(self._chance.random())
        story = Story(
            f"customer-{number}",
            chance.choice(list(PLANS)),
            _one_of(PAYING, chance),
            _one_of(WATCHING, chance),
        )
        self.stories.append(story)
        tab = Tab(self._servers, self._http, story.name, chance)
        visit = _Visit(story, tab, self._stripe_side, chance, self.counts)
        return asyncio.create_task(visit.run(begins_after_s), name=story.name)


class _Visit:
    def __init__(
        self, story: Story, tab: Tab, stripe_side: StripeSide, chance: Random, counts: Counter[str]
    ) -> None:
        self._story = story
        self._tab = tab
        self._stripe_side = stripe_side
        self._chance = chance
        self._counts = counts

    async def run(self, begins_after_s: float) -> None:
        await asyncio.sleep(begins_after_s)
        story = self._story
        body = {"plan": story.plan}
        _, bought = await self._tab.insist("POST", "/api/subscriptions", body, (200, 201), ANSWERED_WITHIN_S)
        story.invoice = bought["invoice"]
        self._counts["purchases"] += 1
        watching = None
        if story.watches and story.watching == "before":
            watching = asyncio.create_task(self._watch(bought["ticket"]))
        await self._pay(bought["client_secret"])
        if story.paying == "never":
            return
        if story.watches and watching is None:
            watching = asyncio.create_task(self._watch(bought["ticket"]))
        if watching is not None:
            await self._tab.confirmed()
            await watching
        await self._spend_some()
        if self._chance.random() < RENEWS:
            await self._renew()

    # Paying: what Stripe.js does, past Paidup

    async def _pay(self, secret: str) -> None:
        paying = self._story.paying
        if paying == "never":
            return
        if paying == "declined, then another card":
            await self._stripe_side.confirm(secret, CARD_DECLINED)
        if paying == "3DS failed, then again":
            await self._stripe_side.confirm(secret, CARD_3DS)
            await self._stripe_side.authenticate(secret, "fail")
        await asyncio.sleep(self._chance.random() * 0.3)
        await self._stripe_side.confirm(secret, CARD_3DS if paying.startswith("3") else CARD)
        if paying.startswith("3"):
            await asyncio.sleep(self._chance.random() * 0.5)
            await self._stripe_side.authenticate(secret, "pass")
        self._story.paid_at = time.monotonic()

    async def _watch(self, ticket: str) -> None:
        final = await self._tab.watch(self._story.invoice, ticket)
        self._story.status = final["status"]
        self._story.told_at = time.monotonic()
        self._story.reconnects = self._tab.reconnects

    # Spending

    async def _spend_some(self) -> None:
        for number in range(self._chance.randint(0, SPENDS_AT_MOST)):
            most = PLANS[self._story.plan] * 2 // 3
            spend = Spend(f"{self._story.name}-{number}", self._chance.randint(1, most))
            self._story.spends.append(spend)
            doubled = self._chance.random() < 0.3  # the SaaS's backend sends the same key twice at once
            await asyncio.gather(*(self._spend(spend) for _ in range(2 if doubled else 1)))
            if self._chance.random() < 0.3:
                await self._spend(spend)  # and once more, later

    async def _spend(self, spend: Spend) -> None:
        """Until there is a clear answer; the same key each time."""
        if spend.refused:
            return
        taken = spend.balance is not None
        spend.unanswered += 1
        body = {"credits": spend.credits, "key": spend.key}
        _, answer = await self._tab.insist("POST", "/api/credits/spend", body, (200, 402), ANSWERED_WITHIN_S)
        spend.unanswered -= 1
        if "balance" not in answer or answer.get("status") == 402:
            self._refused(spend, answer, taken)
            return
        self._counts["spends answered"] += 1
        if spend.balance not in (None, answer["balance"]):
            self._story.complaints.append(
                f"the key {spend.key} was answered {spend.balance} and then {answer}"
            )
        spend.balance = answer["balance"]

    def _refused(self, spend: Spend, answer: Any, taken: bool) -> None:
        """`taken`: whether the key had been acknowledged before this request was sent."""
        self._counts["spends refused"] += 1
        if taken:
            self._story.complaints.append(f"the key {spend.key} was taken and then refused: {answer}")
        elif answer["balance"] >= spend.credits:
            self._story.complaints.append(f"the key {spend.key} was refused although it fits: {answer}")
        spend.refused = True

    # Renewing

    async def _renew(self) -> None:
        """Stripe begins the next period by itself; nobody here knows of it but by a webhook or a list."""
        for _ in range(60):
            try:
                shape = await self._stripe_side.api("GET", f"invoices/{self._story.invoice}")
                subscription = shape["parent"]["subscription_details"]["subscription"]
                renewed = await self._stripe_side.control(f"subscriptions/{subscription}/renew")
            except (AssertionError, *UNREACHABLE):  # injected faults, or the first payment is still under way
                await asyncio.sleep(0.5)
                continue
            self._story.renewal = renewed["id"]
            self._counts["renewals"] += 1
            return
        self._story.complaints.append("the subscription could not be renewed")


def _one_of(weights: dict[str, int], chance: Random) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]
