"""Pruning: old payloads and the old end of the timeline go, in bounded rounds; nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from paidup.db.connection import is_sqlite, open_database, write_transaction
from paidup.db.models import StripeEvent, TimelineEntry, Watermark
from paidup.db.outbound_models import DeliveryState, EventDelivery, EventEndpoint, OutboundEvent
from paidup.reconciliation import pruning
from paidup.reconciliation.pruning import Retention, prune
from paidup.reconciliation.stripe_events import store
from paidup.runtime.clock import now
from paidup.stripe_api.events import Event
from paidup.stripe_api.schemas import decode

OLD = timedelta(days=91)
BODY = '{"id": "%s", "type": "invoice.paid", "livemode": false, "data": {"object": {"id": "in_1"}}}'


@pytest.fixture(autouse=True)
async def database(database_url: str) -> AsyncIterator[None]:
    async with open_database(database_url):
        yield


async def an_event(number: int, handled_at: datetime | None, **values: Any) -> StripeEvent:
    name = f"evt_{number}"
    values |= {"payload": BODY % name, "received_at": now() - 2 * OLD, "handled_at": handled_at}
    return await StripeEvent.create(id=name, type="invoice.paid", **values)


async def emptied() -> set[str]:
    return {row.id for row in await StripeEvent.filter(payload="")}


async def test_old_payloads_go_and_their_rows_stay() -> None:
    """S16: what comes again, however late, is known."""
    await an_event(1, now() - OLD)
    await an_event(2, now() - timedelta(days=89))
    await an_event(3, None, attempts=12, error="parked")
    assert await prune(Retention()) == 1
    assert await emptied() == {"evt_1"}
    assert await StripeEvent.all().count() == 3
    body = BODY % "evt_1"
    assert not await store(decode(Event, body.encode()), body), "it was handled before"
    assert await emptied() == {"evt_1"}, "a redelivery brings nothing back"


async def test_a_round_is_bounded_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where many were handled at one moment, which a round may end in the middle of."""
    monkeypatch.setattr(pruning, "ROUND", 3)
    for number in range(8):
        await an_event(number, now() - OLD + timedelta(hours=number // 5))
    assert [await prune(Retention()) for _ in range(4)] == [3, 3, 2, 0]
    assert len(await emptied()) == 8


async def test_a_round_looks_only_at_what_was_handled_since_the_last() -> None:
    """Its cost follows what is due: emptied rows before the watermark are never read again."""
    await an_event(1, now() - OLD)
    await prune(Retention())
    at = datetime.fromisoformat((await Watermark.get(name=pruning.PAYLOADS)).value)
    await an_event(2, at - timedelta(days=1))
    await an_event(3, at + timedelta(hours=1))
    assert await prune(Retention()) == 1
    assert await emptied() == {"evt_1", "evt_3"}


async def test_what_a_shorter_retention_lets_go_goes_next() -> None:
    await an_event(1, now() - OLD)
    await an_event(2, now() - timedelta(days=5))
    await prune(Retention())
    assert await prune(Retention(payloads=timedelta(days=4))) == 1
    assert await emptied() == {"evt_1", "evt_2"}


async def test_the_old_end_of_the_timeline_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "ROUND", 3)
    for number in range(5):
        await TimelineEntry.create(invoice=f"in_{number}", at=now() - OLD, event_type="created")
    await TimelineEntry.create(invoice="in_new", at=now() - timedelta(days=89), event_type="created")
    assert [await prune(Retention()) for _ in range(3)] == [3, 2, 0]
    assert [entry.invoice for entry in await TimelineEntry.all()] == ["in_new"]


async def outbound(number: int, age: timedelta, state: DeliveryState, endpoint: EventEndpoint) -> None:
    made_at = now() - age
    event = await OutboundEvent.create(
        message=f"msg_{number}", type="credits.granted", data={}, fanned_out=True, created_at=made_at
    )
    await EventDelivery.create(event=event, endpoint=endpoint, state=state, created_at=made_at)


async def test_outbound_events_go_in_bounded_rounds_which_read_no_newer_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that are still to be delivered stay, however many there are, and hold back no others."""
    monkeypatch.setattr(pruning, "ROUND", 3)
    endpoint = await EventEndpoint.create(name="backend", url="https://x.example", types=[], secret="")
    old, young = timedelta(days=31), timedelta(days=29)
    for number in range(4):
        await outbound(number, old, DeliveryState.PENDING, endpoint)
    for number in range(4, 8):
        await outbound(number, old, DeliveryState.DELIVERED, endpoint)
    for number in range(8, 13):
        await outbound(number, young, DeliveryState.DELIVERED, endpoint)
    assert [await prune(Retention()) for _ in range(3)] == [3, 1, 0]
    left = [event.message for event in await OutboundEvent.all().order_by("id")]
    assert left == [f"msg_{number}" for number in (0, 1, 2, 3, 8, 9, 10, 11, 12)]
    assert await EventDelivery.all().count() == 9
    async with write_transaction() as db:
        explain = "EXPLAIN QUERY PLAN" if is_sqlite() else "EXPLAIN"
        if not is_sqlite():
            await db.execute_query("SET LOCAL enable_seqscan = off")  # or it reads the whole of a small table
        plan = await db.execute_query_dict(f"{explain} {pruning.unneeded_events()}")
    text = " ".join(str(value) for row in plan for value in row.values())
    assert "SEARCH d USING INDEX" in text if is_sqlite() else "Seq Scan" not in text, text
    assert "SORT" not in text.upper().replace("FOR ORDER BY", "SORT")
