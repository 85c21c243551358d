"""Fixtures of the scenarios."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from paidup.web.websocket import endpoint, lightweight_protocol, session, transport
from tests.conftest import World
from tests.support.checkout_shop import CheckoutShop
from tests.support.paidup import Paidup
from tests.support.session_clock import SessionClock
from tests.support.stripe_sandbox import StripeSide


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that `paidup serve` runs on, which is cheaper than asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def session_clock(monkeypatch: pytest.MonkeyPatch) -> SessionClock:
    """A clock for WebSocket sessions, which are then checked every 20 ms."""
    clock = SessionClock()
    for module in (endpoint, lightweight_protocol, session, transport):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(endpoint, "TICK_S", 0.02)
    return clock


@pytest.fixture
def shop(stripe_side: StripeSide) -> CheckoutShop:
    return CheckoutShop(stripe_side)


@pytest.fixture
async def deaf(world: World) -> Paidup:
    """A server that hears of nothing but what a test delivers."""
    return await world.server(webhooks=False)
