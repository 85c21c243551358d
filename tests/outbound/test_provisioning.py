"""Provisioning: no browser hears `active` before the SaaS's backend has answered, except by the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from paidup.credits import ledger
from paidup.db.connection import write_transaction
from paidup.db.models import CheckoutSession, Invoice
from paidup.db.outbound_models import DeliveryState, EventDelivery, EventEndpoint
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.domain.stages import Stage
from paidup.realtime.checkout_queries import read_checkout
from paidup.realtime.status_queries import read_status
from paidup.runtime.clock import now
from paidup.services import Services, delivering_events, open_services
from tests.conftest import World
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import settings
from tests.support.provisioning import Backend, paid, plans_with_provisioning, simulate, watching
from tests.support.receivers import SECRET, Receiver, receiving
from tests.support.waiting import wait_until

LONG_S, SHORT_S = 50.0, 0.5


@pytest.fixture
def deadline_s() -> float:
    return LONG_S


@pytest.fixture
async def services(world: World, deadline_s: float, tmp_path: Path) -> AsyncIterator[Services]:
    plans = plans_with_provisioning(tmp_path, deadline_s)
    given = world.given(plans_file=plans, event_private_addresses="allow")
    async with open_services(settings(**given)) as opened, delivering_events(opened):
        yield opened


async def told(services: Services, receiver: Receiver, name: str = "backend") -> None:
    """Send the receiver what is granted from now on."""
    types = ["credits.granted"]
    await EventEndpoint.create(name=name, url=receiver.url, types=types, secret=SECRET)
    services.dispatcher.refresh()
    await wait_until(services.dispatcher.wants_grants)


class Slow:
    """Answers once it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.done = asyncio.Event()

    async def __call__(self, _: web.Request) -> None:
        self.asked.set()
        await self.done.wait()


async def test_the_browser_is_told_after_the_backend(services: Services, receiver: Receiver) -> None:
    """S59: the backend has the credits, and may spend them, before the page says that they are there."""
    backend = Slow()
    receiver.behaviours = [backend]
    await told(services, receiver)
    account = await an_account()
    invoice = await an_invoice(account, checkout="cs_test_1")
    await CheckoutSession.create(
        id="cs_test_1",
        account=account,
        mode="subscription",
        status="complete",
        payment_status="paid",
        invoice=invoice.id,
        expires_at=now(),
        created_at=now(),
        return_to="https://app.example.com/welcome",
    )
    browser = await watching(services, invoice.id)
    settled = await services.settlement.settle(paid(invoice), Source.WEBHOOK)
    assert settled.outcome.done
    await backend.asked.wait()
    shown, checkout = await read_status(invoice.id), await read_checkout("cs_test_1")
    assert shown
    assert checkout
    for each in (shown, checkout):
        assert (each.status, each.stage) == (InvoiceStatus.OPEN, Stage.PROVISIONING)
        assert (each.credits_granted, each.via, each.terminal) == (0, None, False)
    assert checkout.return_to is None
    assert browser.stages == [Stage.AWAITING_PAYMENT, Stage.PROVISIONING]
    assert (await services.settlement.settle(paid(invoice), Source.VERIFICATION)).outcome.done
    async with write_transaction():
        spent = await ledger.spend(await ledger.lock_account(account.id), 50, "poster-1", now())
    assert spent.balance == 1950, "the balance does not wait"

    backend.done.set()
    await browser.active.wait()
    final = browser.heard[-1][1]
    assert browser.stages[2:] == [Stage.ACTIVE]
    assert (final.credits_granted, final.via) == (2000, Source.WEBHOOK)
    checkout = await read_checkout("cs_test_1")
    assert checkout
    assert (checkout.stage, checkout.version, checkout.return_to) == (
        Stage.ACTIVE,
        final.version + 2,
        "https://app.example.com/welcome",
    )
    row = await Invoice.get(id=invoice.id)
    assert row.provisioning_until is None
    await wait_until(lambda: _is_published(invoice.id))
    assert ended(services) == {"answer": 1}


def ended(services: Services) -> dict[str, float]:
    """How many pages have waited, by what ended it."""
    (family,) = services.metrics.provisioning_ended.collect()
    return {
        each.labels["by"]: each.value
        for each in family.samples
        if each.name.endswith("_total") and each.value
    }


async def _is_published(invoice: str) -> bool:
    row = await Invoice.get(id=invoice)
    return row.publish_due_at is None and row.published_version == row.version


async def test_every_endpoint_that_wants_it_is_awaited(services: Services, receiver: Receiver) -> None:
    """One that is given up is not: it would never answer."""
    backend = Slow()
    receiver.behaviours = [backend]
    async with receiving() as quick, receiving() as gone:

        async def answer_gone(_: web.Request) -> web.Response:
            return web.Response(status=410)

        gone.behaviours = [answer_gone]
        await told(services, receiver)
        await told(services, quick, "quick")
        await told(services, gone, "gone")
        await wait_until(lambda: len(services.dispatcher._endpoints) == 3)
        invoice = await an_invoice(await an_account())
        browser = await watching(services, invoice.id)
        await services.settlement.settle(paid(invoice), Source.WEBHOOK)
        await backend.asked.wait()
        await wait_until(lambda: quick.events and gone.requests)
        assert Stage.ACTIVE not in browser.stages
        backend.done.set()
        await browser.active.wait()


@pytest.mark.parametrize("deadline_s", [SHORT_S])
async def test_a_backend_that_is_down_delays_nobody_beyond_the_deadline(
    services: Services, receiver: Receiver
) -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=500)

    receiver.behaviours = [fail] * 5
    await told(services, receiver)
    invoice = await an_invoice(await an_account())
    browser = await watching(services, invoice.id)
    await services.settlement.settle(paid(invoice), Source.WEBHOOK)
    until = (await Invoice.get(id=invoice.id)).provisioning_until
    assert until
    await browser.active.wait()
    assert browser.heard[-1][0] >= until
    assert browser.stages == [Stage.AWAITING_PAYMENT, Stage.PROVISIONING, Stage.ACTIVE]
    assert ended(services) == {"deadline": 1}


async def test_after_a_restart_the_row_says_when_it_ends_and_the_reconciler_tells_it(
    services: Services, receiver: Receiver
) -> None:
    backend = Slow()
    receiver.behaviours = [backend]
    await told(services, receiver)
    invoice = await an_invoice(await an_account())
    browser = await watching(services, invoice.id)
    await services.settlement.settle(paid(invoice), Source.WEBHOOK)
    await backend.asked.wait()
    services.settlement.provisioning.close()  # the process was killed: its timers are gone
    await services.reconciler.due.versions()
    assert Stage.ACTIVE not in browser.stages
    over = now() - timedelta(seconds=1)
    await Invoice.filter(id=invoice.id).update(provisioning_until=over, publish_due_at=over)
    shown = await read_status(invoice.id)
    assert shown
    assert shown.stage is Stage.ACTIVE, "a page that asks needs nobody to have written"
    await services.reconciler.due.versions()
    await browser.active.wait()
    assert ended(services) == {"deadline": 1}
    backend.done.set()
    await wait_until(lambda: EventDelivery.exists(state=DeliveryState.DELIVERED))
    await services.settlement.provisioning.answered(invoice.id)
    assert ended(services) == {"deadline": 1}, "the answer came too late"


async def test_it_costs_nothing_where_no_endpoint_wants_grants_or_the_plan_has_it_not(
    services: Services, receiver: Receiver
) -> None:
    invoice = await an_invoice(await an_account())
    settled = await services.settlement.settle(paid(invoice), Source.WEBHOOK)
    assert settled.status
    assert settled.status.stage is Stage.ACTIVE
    assert (await Invoice.get(id=invoice.id)).provisioning_until is None
    await told(services, receiver)
    other = await an_invoice(await an_account(), plan="no longer sold")
    settled = await services.settlement.settle(paid(other), Source.WEBHOOK)
    assert settled.status
    assert settled.status.stage is Stage.ACTIVE


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("deadline_s", [SHORT_S])
async def test_in_many_activations_no_browser_runs_ahead_of_the_backend(services: Services) -> None:
    """S59: the backend is quick, slow, down or away. `python -m tests.soak.provisioning` runs 10,000."""
    async with receiving(Backend(Random(17), SHORT_S)) as backend:
        assert isinstance(backend, Backend)
        verdict = await simulate(services, backend, 200, SHORT_S)
    assert verdict.holds, verdict
    assert verdict.by_answer > 0, verdict
    assert verdict.by_deadline > 0, verdict
    assert set(backend.behaved) == {"quick", "slow", "down", "away"}
