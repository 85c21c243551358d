"""The process is killed at each step of a webhook and of a verification; a fresh one puts it right."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import aiohttp
import pytest

from paidup.db.models import StripeEvent
from tests.conftest import World
from tests.crash.driver import BatchStep, SpendStep, Step
from tests.support.factories import an_account, granted, three_sums
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup, environment, status_with
from tests.support.processes import Child, free_port
from tests.support.waiting import wait_until

AHEAD_S = "120"
"""By then every grace, lease and retry of the process that died has run out."""


class Scene:
    """One paid invoice, and processes that come and go."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def doomed(self, step: Step | SpendStep | BatchStep) -> tuple[Child, Paidup]:
        """A server in a process of its own that will be killed at `step`."""
        port = free_port()
        await self.world.deliver_to(port)
        env = environment(**self.world.given(port=port))
        log = self.world.folder / f"doomed-{step}.log"
        child = Child(["-m", "tests.crash.driver", "die", step], env, log, forked=True)
        self.world.stack.callback(child.stop)
        await asyncio.to_thread(child.wait_for, f"http://127.0.0.1:{port}/readyz")
        return child, Paidup(f"http://127.0.0.1:{port}", self.world.http)

    async def sweep(self) -> None:
        """A fresh process, later: one round of every sweep."""
        env = environment(**self.world.given())
        log = self.world.folder / "sweep.log"
        child = Child(["-m", "tests.crash.driver", "sweep", AHEAD_S], env, log, forked=True)
        self.world.stack.callback(child.stop)
        assert await asyncio.to_thread(child.process.wait, 30) == 0, child.output

    async def events(self) -> list[StripeEvent]:
        return await StripeEvent.filter(type="invoice.paid")


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


async def dead(child: Child) -> bool:
    return child.process.poll() is not None


@pytest.mark.parametrize("step", Step)
async def test_a_webhook_whose_process_dies_at_any_step_credits_once_all_the_same(
    scene: Scene, step: Step
) -> None:
    """S13, S14, S17: killed at this step; the sweeps of a fresh process finish it, and the watcher is told.

    Stripe delivers once and then not again, and answers nobody until the sweep: the stored event
    is all there is. Only where not even that was stored the sweep has to ask Stripe's lists: it is stored in
    the transaction that credits.
    """
    world, stripe_side = scene.world, scene.world.stripe_side
    watched = await world.server(webhooks=False)
    ada = watched.customer()
    purchase = await ada.buy()
    await stripe_side.conditions(webhook_drop=True)
    child, doomed = await scene.doomed(step)
    await stripe_side.confirm(purchase["client_secret"])
    event = json.dumps(await stripe_side.event("invoice.paid")).encode()
    await stripe_side.conditions(api_down=True)
    async with ada.watch(purchase) as socket:
        with suppress(aiohttp.ClientError):
            await doomed.webhook(event)
        await wait_until(lambda: dead(child))
        if step in (Step.BEFORE_STORE, Step.BEFORE_COMMIT):
            assert await scene.events() == []
            await stripe_side.conditions(api_down=False)
        await scene.sweep()
        told = await status_with(socket, status="active")
    assert told["credits_granted"] == told["balance"] == 2000
    (row,) = await scene.events()
    assert row.handled_at is not None
    assert row.attempts == 1
    await assert_books_balance(grants=1)

    # Whatever Stripe sends once more changes nothing.
    await stripe_side.conditions(api_down=False)
    status, answer = await watched.webhook(event)
    assert (status, answer["outcome"]) == (200, "duplicate")
    await assert_books_balance(grants=1)


@pytest.mark.parametrize(
    "step",
    [Step.BEFORE_COMMIT, Step.AFTER_COMMIT, Step.BEFORE_PUBLISH, Step.AFTER_PUBLISH, Step.BEFORE_MARK],
)
async def test_a_verification_whose_process_dies_at_any_step_is_taken_up_by_another(
    scene: Scene, step: Step
) -> None:
    """S14: the server that holds the socket and settles is killed; the tab comes back and is told."""
    world, stripe_side = scene.world, scene.world.stripe_side
    await stripe_side.conditions(webhook_drop=True)
    other = await world.server(webhooks=False)
    child, doomed = await scene.doomed(step)
    ada = doomed.customer()
    purchase = await other.customer().buy()
    await stripe_side.confirm(purchase["client_secret"])
    with suppress(aiohttp.ClientError):
        async with ada.watch(purchase):  # until then: for a socket that leaves, nobody need ask any more
            await wait_until(lambda: dead(child))
    async with other.customer().watch(purchase) as socket:
        told = await status_with(socket, status="active")
    assert told["balance"] == 2000
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("step", BatchStep)
async def test_webhooks_whose_process_dies_credit_once_when_stripe_sends_them_again(
    scene: Scene, step: BatchStep
) -> None:
    """S13, S14: no webhook of the transaction is answered, and Stripe sends each to another server."""
    world, stripe_side = scene.world, scene.world.stripe_side
    other = await world.server(webhooks=False)
    await stripe_side.conditions(webhook_drop=True)
    child, doomed = await scene.doomed(step)
    events = []
    for number in range(4):
        purchase = await other.customer(f"user-{number}").buy()
        await stripe_side.confirm(purchase["client_secret"])
        events.append(json.dumps(await stripe_side.event("invoice.paid", purchase["invoice"])).encode())
    answers = await asyncio.gather(*map(doomed.webhook, events), return_exceptions=True)
    await wait_until(lambda: dead(child))
    assert sum(isinstance(answer, aiohttp.ClientError) for answer in answers) > 1
    credited = await StripeEvent.filter(outcome="settled").count()
    assert (credited > 1) is (step is BatchStep.AFTER_BATCH)
    for event in events:
        status, answer = await other.webhook(event)
        assert (status, answer["outcome"] in ("settled", "duplicate")) == (200, True)
    assert await StripeEvent.filter(outcome="settled", attempts=1).count() == 4
    await assert_books_balance(grants=4)


@pytest.mark.parametrize("step", SpendStep)
async def test_spends_whose_process_dies_count_once_when_they_are_sent_again(
    scene: Scene, step: SpendStep
) -> None:
    """No caller of the transaction is answered, and every key is sent to another server."""
    other, account = await scene.world.server(webhooks=False), await an_account()
    await granted(account, 100)
    child, doomed = await scene.doomed(step)
    keys = [f"job-{number}" for number in range(6)]
    spends = [doomed.customer(account.external_id).spend(10, key) for key in keys]
    answers = await asyncio.gather(*spends, return_exceptions=True)
    await wait_until(lambda: dead(child))
    assert sum(isinstance(answer, aiohttp.ClientError) for answer in answers) > 1
    for key in keys * 2:
        status, _ = await other.customer(account.external_id).spend(10, key)
        assert status == 200
    assert await three_sums(account.id) == (40, 40, 40)
