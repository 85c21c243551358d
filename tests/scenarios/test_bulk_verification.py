"""Paid but blocked, in a crowd (SCENARIOS, S01 and S23): no webhook, and no place to ask about each."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from paidup.payments import verification_queue as watches
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import status_with
from tests.support.stripe_sandbox import StripeSide

CROWD = 3


async def _no_place(_: float) -> None:
    await asyncio.Event().wait()


async def test_a_crowd_whose_webhooks_do_not_come_is_told_by_list(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S01, S23: the budget for single questions is used up: one list of paid invoices serves them all."""
    monkeypatch.setattr(watches, "BULK_THRESHOLD", CROWD)
    monkeypatch.setattr(watches, "BULK_AFTER_S", 0.1)
    monkeypatch.setattr(watches, "LOOK_EVERY_S", 0.1)
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    monkeypatch.setattr(paidup.services.gateway, "place_to_read", _no_place)
    customers = [paidup.customer(f"ada-{number}") for number in range(CROWD)]
    purchases = [await customer.buy("pro") for customer in customers]
    for purchase in purchases:
        await stripe_side.confirm(purchase["client_secret"])
    await stripe_side.control("calls/reset")
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(customer.watch(purchase))
            for customer, purchase in zip(customers, purchases, strict=True)
        ]
        for socket in sockets:
            told = await status_with(socket, status="active")
            assert (told["via"], told["balance"]) == ("verification", 2000)
    assert await stripe_side.calls("GET /v1/invoices/{id}") == 0
    assert 1 <= await stripe_side.calls("GET /v1/invoices") <= 6
    await assert_books_balance(grants=CROWD)
