"""Activations of plans with `provisioning`: the backend is quick, slow, down or away. And a verdict."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random

from aiohttp import web

from paidup.db.models import Invoice
from paidup.db.outbound_models import EventEndpoint
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import IntentFacts, PaymentFacts, Source
from paidup.domain.stages import Stage
from paidup.realtime.hub import INVOICES
from paidup.realtime.status_queries import read_status
from paidup.runtime.clock import now
from paidup.services import Services
from paidup.settings import PACKAGED_PLANS
from tests.support.factories import an_account, an_invoice
from tests.support.receivers import SECRET, Receiver

BEHAVIOURS = ("quick",) * 17 + ("slow", "down", "away")
AT_ONCE = 25
"""Activations under way at the same time."""
MAX_WAIT_S = 60.0


def plans_with_provisioning(folder: Path, deadline_s: float) -> Path:
    """The packaged plans, each of which awaits the backend for so long."""
    path = folder / "provisioning.toml"
    told = f"provisioning = true\nprovisioning_deadline_s = {deadline_s}\n"
    path.write_text(PACKAGED_PLANS.read_text().replace("[[plans]]\n", f"[[plans]]\n{told}"))
    return path


def paid(invoice: Invoice) -> PaymentFacts:
    """What an event shows of its payment."""
    amount = invoice.amount_due_minor
    intent = invoice.payment_intent or ""
    payment = IntentFacts(intent, "succeeded", invoice.customer, invoice.currency, amount, amount, invoice.id)
    return PaymentFacts(payments=(payment,))


@dataclass
class Browser:
    """A subscriber of an invoice, as a socket is: only newer versions count."""

    heard: list[tuple[datetime, StatusMessage]] = field(default_factory=list)
    active: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def known_version(self) -> int:
        return self.heard[-1][1].version if self.heard else -1

    def offer(self, status: StatusMessage, frame: bytes) -> bool:
        if status.version <= self.known_version:
            return False
        self.heard.append((now(), status))
        if status.terminal:
            self.active.set()
        return True

    def offer_stage(self, stage: Stage) -> None:
        """What Stripe says changes nothing here."""

    @property
    def stages(self) -> list[Stage]:
        return [status.stage for _, status in self.heard]


async def watching(services: Services, invoice: str) -> Browser:
    """A browser that has its invoice's first frame."""
    browser = Browser()
    await services.hub.subscribe(INVOICES, invoice, browser)
    status = await read_status(invoice)
    assert status
    browser.offer(status, b"{}")
    return browser


class Backend(Receiver):
    """Handles each invoice in a way of its own, and notes when it had answered."""

    def __init__(self, random: Random, deadline_s: float) -> None:
        super().__init__()
        self._random = random
        self._deadline_s = deadline_s
        self.answered: dict[str, datetime] = {}
        self.behaved: Counter[str] = Counter()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        invoice = (await request.json())["data"]["invoice"]
        behaviour = self._random.choice(BEHAVIOURS)
        self.behaved[behaviour] += 1
        if behaviour == "down":
            return web.Response(status=503)
        if behaviour in ("slow", "away"):
            await asyncio.sleep(self._deadline_s * self._random.uniform(0.2, 2))
        if behaviour == "away":
            request.transport.abort()  # type: ignore[union-attr]
            return web.Response(status=500)
        self.answered.setdefault(invoice, now())
        return web.Response(status=204)


@dataclass
class Verdict:
    """`early`: invoices that a browser heard to be active before the backend, and before the deadline."""

    activations: int = 0
    by_answer: int = 0
    by_deadline: int = 0
    early: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    wrong_stages: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.early or self.untold or self.wrong_stages)


async def simulate(services: Services, backend: Backend, activations: int, deadline_s: float) -> Verdict:
    """Settle so many invoices, each watched by a browser, while `backend` gets their events."""
    types = ["credits.granted"]
    await EventEndpoint.create(name="backend", url=backend.url, types=types, secret=SECRET)
    services.dispatcher.refresh()
    while not services.dispatcher.wants_grants():
        await asyncio.sleep(0.01)
    verdict, slots = Verdict(activations), asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with slots:
            invoice = await an_invoice(await an_account())
            browser = await watching(services, invoice.id)
            began = now()
            await services.settlement.settle(paid(invoice), Source.WEBHOOK)
            try:
                async with asyncio.timeout(MAX_WAIT_S):
                    await browser.active.wait()
            except TimeoutError:
                verdict.untold.append(invoice.id)
            services.hub.unsubscribe(INVOICES, invoice.id, browser)
            _judge(verdict, browser, backend.answered.get(invoice.id), began, deadline_s, invoice.id)

    await asyncio.gather(*(one() for _ in range(activations)))
    return verdict


def _judge(
    verdict: Verdict,
    browser: Browser,
    answered: datetime | None,
    began: datetime,
    deadline_s: float,
    invoice: str,
) -> None:
    if browser.stages != [Stage.AWAITING_PAYMENT, Stage.PROVISIONING, Stage.ACTIVE]:
        verdict.wrong_stages.append(f"{invoice}: {browser.stages}")
        return
    told = browser.heard[-1][0]
    if answered is not None and answered <= told:
        verdict.by_answer += 1
    elif (told - began).total_seconds() >= deadline_s:
        verdict.by_deadline += 1
    else:
        verdict.early.append(invoice)
