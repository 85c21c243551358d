"""Many customers wait at once (SCENARIOS, S01 and S23): no webhook, and no slot to verify each invoice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from paidup.errors import StripeUnavailable
from paidup.payments import bulk_verification, covered_retries, verification_queue, verification_worker
from paidup.stripe_api.gateway import StripeGateway
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

CUSTOMERS = 3


async def _wait_forever(_: StripeGateway, max_wait_s: float, at_most: int) -> int:
    await asyncio.Event().wait()
    return 1


async def test_waiting_customers_whose_webhooks_are_lost_are_credited_from_one_list(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S01, S23: no slot is left for single checks; one list of paid invoices serves all."""
    monkeypatch.setattr(verification_queue, "BULK_THRESHOLD", CUSTOMERS)
    monkeypatch.setattr(verification_queue, "BULK_AFTER_S", 0.1)
    monkeypatch.setattr(verification_worker, "INSPECT_EVERY_S", 0.1)
    monkeypatch.setattr(StripeGateway, "acquire_read_slots", _wait_forever)
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    customers = [paidup.customer(f"ada-{number}") for number in range(CUSTOMERS)]
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
            status = await status_with(socket, status="active")
            assert (status["via"], status["balance"]) == ("verification", 2000)
    assert await stripe_side.calls("GET /v1/invoices/{id}") == 0
    assert 1 <= await stripe_side.calls("GET /v1/invoices") <= 6
    await assert_books_balance(grants=CUSTOMERS)


@pytest.mark.parametrize("list_fails", [False, True])
async def test_a_late_payment_is_found_by_the_list_without_single_checks_and_by_these_without_the_list(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch, list_fails: bool
) -> None:
    """S01, S23: no webhook comes. Once the list covers those that wait, they are not read one by one."""
    monkeypatch.setattr(verification_queue, "BULK_THRESHOLD", CUSTOMERS)
    monkeypatch.setattr(verification_queue, "BULK_AFTER_S", -60.0)  # though slots are not short
    monkeypatch.setattr(verification_worker, "INSPECT_EVERY_S", 0.1)
    monkeypatch.setattr(bulk_verification, "LONG_PAUSE", timedelta(seconds=0.2))
    monkeypatch.setattr(covered_retries, "CHECK_EVERY_S", 10_000.0)
    monkeypatch.setattr(verification_queue, "watched_delay_s", lambda attempt, chance: 0.5)
    if list_fails:
        monkeypatch.setattr(covered_retries, "COVERED_S", 3.0)
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    customers = [paidup.customer(f"ada-{number}") for number in range(CUSTOMERS)]
    purchases = [await customer.buy("pro") for customer in customers]
    queue = paidup.services.verification_queue
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(customer.watch(purchase))
            for customer, purchase in zip(customers, purchases, strict=True)
        ]
        for socket in sockets:
            await status_with(socket, stage="awaiting_payment")
        await wait_until(lambda: len(queue._covered._retries) >= CUSTOMERS - 1, within=60)
        await stripe_side.control("calls/reset")
        if list_fails:
            monkeypatch.setattr(StripeGateway, "list_paid_invoices", _unavailable)
        for purchase in purchases:
            await stripe_side.confirm(purchase["client_secret"])
        for socket in sockets:
            status = await status_with(socket, status="active")
            assert (status["via"], status["balance"]) == ("verification", 2000)
    single = await stripe_side.calls("GET /v1/invoices/{id}")
    assert single >= CUSTOMERS if list_fails else single <= 1
    await assert_books_balance(grants=CUSTOMERS)


async def _unavailable(*_: object, **__: object) -> None:
    raise StripeUnavailable("no list")
