"""Reservations through the API: credits held for work whose cost is known only afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from paidup.db.models import Account, Reservation
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.factories import granted, three_sums
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, next_balance


async def test_work_is_reserved_done_and_paid_for(paidup: Paidup) -> None:
    ada = await _with_credits(paidup, 100)
    status, held = await _reserve(ada, 70)
    assert (status, held["key"], held["credits"], held["balance"]) == (201, "work", 70, 30)
    until = datetime.fromisoformat(held["expires_at"]) - now()
    assert timedelta(seconds=800) < until <= timedelta(seconds=900)
    assert await _reserve(ada, 70) == (200, held)
    assert await ada.balance() == 30
    for _ in range(2):
        assert await _commit(ada, 50) == (200, {"balance": 50, "credits": 50, "key": "work"})
    assert await ada.balance() == 50


async def test_canceled_work_costs_nothing(paidup: Paidup) -> None:
    ada = await _with_credits(paidup, 100)
    await _reserve(ada, 70)
    for _ in range(2):
        assert await _release(ada) == (200, {"balance": 100, "credits": 70, "key": "work"})
    assert await ada.balance() == 100


async def test_invalid_reservations_are_problem_responses(paidup: Paidup) -> None:
    ada = await _with_credits(paidup, 100)
    await _reserve(ada, 70)
    assert _told(await _reserve(ada, 71)) == (409, "key-reused")
    assert _told(await _commit(ada, 71)) == (422, "invalid-input")
    assert _told(await _commit(ada, 50, "another")) == (404, "not-found")
    assert _told(await _release(ada, "another")) == (404, "not-found")
    assert (await _commit(ada, 50))[0] == 200
    assert _told(await _commit(ada, 51)) == (409, "key-reused")
    assert _told(await _release(ada)) == (409, "reservation-over")
    assert _told(await _reserve(ada, 70)) == (409, "reservation-over")
    for wrong in ({"expires_in_s": 0}, {"expires_in_s": 86_401}, {"credits": 0}, {"credits": 10**7}):
        answered = await ada.call("POST", "/api/credits/reserve", {"key": "new", "credits": 10, **wrong})
        assert _told(answered) == (422, "invalid-input")
    assert await ada.balance() == 50


async def test_without_credits_the_response_names_the_pending_payment(paidup: Paidup) -> None:
    """S03: as a refused spend does."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    status, refused = await _reserve(ada, 70)
    assert (status, refused["balance"], refused["needed"]) == (402, 0, 70)
    assert refused["activating"]["invoice"] == purchase["invoice"]


async def test_several_reconcilers_expire_a_reservation_once(paidup: Paidup) -> None:
    ada, bob = await _with_credits(paidup, 100), await _with_credits(paidup, 100, "bob")
    for customer in (ada, bob):
        await _reserve(customer, 30, "a")
        await _reserve(customer, 30, "b")
    assert await paidup.services.reconciler.due.reservations() == 0
    await Reservation.all().update(expires_at=now() - timedelta(seconds=1))
    await asyncio.gather(*(paidup.services.reconciler.due.reservations() for _ in range(5)))
    assert await paidup.services.reconciler.due.reservations() == 0
    assert [await ada.balance(), await bob.balance()] == [100, 100]
    assert _told(await _commit(ada, 10, "a")) == (409, "reservation-over")
    assert await _release(bob, "a") == (200, {"balance": 100, "credits": 30, "key": "a"})


async def test_each_change_is_sent_to_the_balance_socket(world: World) -> None:
    """A repeated request changes nothing and sends nothing."""
    paidup = await world.server(resync_interval_s=600)
    ada = await _with_credits(paidup, 100)
    async with ada.watch_balance() as line:
        told = [await next_balance(line)]
        steps: list[Callable[[], Awaitable[tuple[int, Any]]]] = [
            lambda: _reserve(ada, 70),
            lambda: _commit(ada, 50),
            lambda: _reserve(ada, 20, "later"),
            lambda: _release(ada, "later"),
            lambda: _reserve(ada, 30, "late"),
        ]
        for step in steps:
            first, again = await step(), await step()
            assert (first[0] in (200, 201), again) == (True, (200, first[1]))
            told.append(await next_balance(line))
        await Reservation.filter(key="late").update(expires_at=now() - timedelta(seconds=1))
        await paidup.services.reconciler.due.reservations()
        told.append(await next_balance(line))
    assert [frame["balance"] for frame in told] == [100, 30, 50, 30, 50, 20, 50]
    assert [frame["version"] for frame in told] == sorted({frame["version"] for frame in told})


async def test_concurrent_spends_and_reservations_in_two_processes_never_go_below_zero(world: World) -> None:
    """Many concurrent reservations at both servers, each sent twice, never exceed the balance."""
    paidup, other = await world.server(webhooks=False), await world.process(webhooks=False)
    ada = await _with_credits(paidup, 105)
    both = [ada, other.customer("ada")]
    answers = await asyncio.gather(
        *(customer.spend(10, f"spend-{number}") for number in range(12) for customer in both),
        *(_reserve(customer, 10, f"work-{number}") for number in range(4) for customer in both),
    )
    assert {status for status, _ in answers} <= {200, 201, 402}
    assert min(body["balance"] for _, body in answers) >= 0
    account = await Account.get(external_id="ada")
    assert await three_sums(account.id) == (5, 5, 5), "ten of the sixteen, each once"


async def _with_credits(paidup: Paidup, credits: int, name: str = "ada") -> Customer:
    customer = paidup.customer(name)
    assert await customer.balance() == 0
    await Account.filter(external_id=name).update(stripe_customer=f"cus_{name}")
    invoice = await granted(await Account.get(external_id=name), credits)
    invoice.status, invoice.settled_at = invoice.status.ACTIVE, now()
    await invoice.save(update_fields=["status", "settled_at"])
    return customer


async def _reserve(customer: Customer, credits: int, key: str = "work") -> tuple[int, Any]:
    return await customer.call("POST", "/api/credits/reserve", {"credits": credits, "key": key})


async def _commit(customer: Customer, credits: int, key: str = "work") -> tuple[int, Any]:
    answered = await customer.call("POST", "/api/credits/commit", {"credits": credits, "key": key})
    await assert_books_balance()
    return answered


async def _release(customer: Customer, key: str = "work") -> tuple[int, Any]:
    answered = await customer.call("POST", "/api/credits/release", {"key": key})
    await assert_books_balance()
    return answered


def _told(answered: tuple[int, Any]) -> tuple[int, str]:
    status, problem = answered
    return status, problem["type"].rpartition("/")[2]
