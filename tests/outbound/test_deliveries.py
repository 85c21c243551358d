"""Deliveries: at least once, in order for each account, to every endpoint that wants the event."""

from __future__ import annotations

from aiohttp import web

from paidup.credits import ledger
from paidup.db.connection import write_transaction
from paidup.db.models import Account, EntryKind
from paidup.db.outbound_models import DeliveryState, EventDelivery
from paidup.outbound.dispatcher import Dispatcher
from paidup.runtime.clock import now
from tests.support.factories import an_account, granted
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until


async def adjust(account: Account, credits: int, reference: str) -> None:
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        await ledger.post_entry(locked, EntryKind.ADJUST, credits, reference)


async def test_an_event_arrives_signed_with_what_is_needed(
    dispatcher: Dispatcher, receiver: Receiver
) -> None:
    await receiver.become_endpoint()
    dispatcher.refresh()
    ada = await an_account()
    invoice = await granted(ada, 2000)
    dispatcher.wake()
    await wait_until(lambda: receiver.events)
    (event,) = receiver.events
    assert event["type"] == "credits.granted"
    assert event["timestamp"].endswith("Z")
    assert event["data"] == {
        "account": ada.external_id,
        "version": 1,
        "balance": 2000,
        "invoice": invoice.id,
        "subscription": None,
        "credits": 2000,
        "reason": "plan, paid",
    }
    row = await wait_until(lambda: EventDelivery.filter(state=DeliveryState.DELIVERED).first())
    assert row is not None
    assert (row.status_code, row.attempts, row.answer, row.error) == (204, 1, "", None)


async def test_an_accounts_events_wait_for_one_that_fails(dispatcher: Dispatcher, receiver: Receiver) -> None:
    """The others' go on; after the retry, all have arrived in order."""

    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=500, text="<b>no</b>")

    await receiver.become_endpoint()
    dispatcher.refresh()
    ada, eve = await an_account(), await an_account("eve")
    receiver.behaviours = [fail]
    for number in range(5):
        await adjust(ada, 10, f"ada-{number}")
    dispatcher.wake()
    await wait_until(lambda: EventDelivery.exists(state=DeliveryState.PENDING, attempts=1, status_code=500))
    await adjust(eve, 10, "eve-1")
    await wait_until(lambda: receiver.events)
    assert [event["data"]["account"] for event in receiver.events] == [eve.external_id]
    await EventDelivery.filter(status_code=500).update(next_attempt_at=now())
    await wait_until(lambda: len(receiver.events) == 6)
    assert [event["data"]["version"] for event in receiver.events[1:]] == [1, 2, 3, 4, 5]
    assert receiver.balances() == {ada.external_id: 50, eve.external_id: 10}


async def test_an_endpoint_gets_the_types_that_it_wants(dispatcher: Dispatcher, receiver: Receiver) -> None:
    await receiver.become_endpoint("balance.depleted")
    dispatcher.refresh()
    ada = await an_account()
    await adjust(ada, 10, "a")
    await adjust(ada, -10, "b")
    await wait_until(lambda: receiver.events)
    assert receiver.types == ["balance.depleted"]
    assert await EventDelivery.all().count() == 1
