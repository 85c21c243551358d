"""The SaaS's own backend is told of a payment, by signed events (SCENARIOS, S59)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from paidup.db.outbound_models import DeliveryState, EventDelivery
from paidup.operations.audit_log import Operator
from paidup.operations.event_replay import Replay, replay
from paidup.operations.explain import explain
from tests.conftest import World
from tests.support.paidup import status_with
from tests.support.receivers import SECRET, Receiver, receiving
from tests.support.waiting import wait_until


class Cache:
    """A backend's own "which plan does this customer have", by `version`, as docs/events.md says."""

    def __init__(self, receiver: Receiver) -> None:
        self.plan: str | None = None
        self.version = -1
        self.history: list[str | None] = [None]
        receiver.on_event = self.take

    def take(self, event: dict[str, Any]) -> None:
        data = event["data"]
        if data["version"] < self.version:
            return
        self.version = data["version"]
        if event["type"] in ("credits.granted", "subscription.started"):
            self.plan = data["plan"]
        elif event["type"] == "subscription.ended":
            self.plan = None
        self.history.append(self.plan)


@pytest.fixture
async def backend() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


async def test_the_backend_knows_with_the_browser_and_never_forgets(world: World, backend: Receiver) -> None:
    """S59: no cached "no plan" outlives the payment, also where old events come again."""
    cache = Cache(backend)
    paidup = await world.server(
        event_endpoints=backend.url, event_secret=SECRET, event_private_addresses="allow"
    )
    ada = paidup.customer()
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as socket:
        await world.stripe_side.confirm(purchase["client_secret"])
        await status_with(socket, status="active")
    await wait_until(lambda: cache.plan == "pro")
    await wait_until(lambda: len(backend.events) == 2)
    await wait_until(lambda: _delivered(2))
    status, _ = await ada.call("POST", "/api/subscriptions/cancel", {"when": "now"})
    assert status == 200
    await wait_until(lambda: cache.plan is None)
    told = len(backend.events)
    await wait_until(lambda: _delivered(told))
    assert (await replay(Replay(endpoint=backend.url), Operator("grace"))).deliveries == told
    paidup.services.dispatcher.refresh()
    await wait_until(lambda: len(backend.events) == 2 * told)
    assert cache.plan is None, "an old `pro` does not come back"
    assert backend.versions(ada.name) == sorted(backend.versions(ada.name)[:told]) * 2
    report = (await explain(purchase["invoice"])).invoices[0]
    assert {(each.type, each.endpoint) for each in report.deliveries} >= {("credits.granted", backend.url)}


async def _delivered(number: int) -> bool:
    return await EventDelivery.filter(state=DeliveryState.DELIVERED).count() == number
