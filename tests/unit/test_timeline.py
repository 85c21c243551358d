"""The timeline: written in batches, outside the settlement; it may lose an entry, never a credit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise.exceptions import OperationalError

from paidup.db.bulk import insert_many
from paidup.db.models import TimelineEntry
from paidup.payments import timeline as module
from paidup.payments.timeline import Timeline, TimelineEventType
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
async def timeline(database: None) -> AsyncIterator[Timeline]:
    opened = Timeline()
    opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries each write took."""
    sizes: list[int] = []

    async def counted(kind: type[TimelineEntry], columns: Any, rows: list[Any], durable: bool) -> None:
        sizes.append(len(rows))
        await insert_many(kind, columns, rows, durable)

    monkeypatch.setattr(module, "insert_many", counted)
    return sizes


async def noted() -> list[tuple[str, Any]]:
    return [(entry.event_type, entry.detail) for entry in await TimelineEntry.all().order_by("id")]


async def count_notes() -> int:
    return len(await noted())


async def test_notes_are_written_in_their_order(timeline: Timeline) -> None:
    """S36: with what belongs to them."""
    timeline.note("in_1", TimelineEventType.CREATED)
    timeline.note("in_1", TimelineEventType.SETTLED, source="webhook")
    await wait_until(count_notes)
    assert await noted() == [("created", None), ("settled", {"source": "webhook"})]


async def test_many_notes_cost_few_writes(timeline: Timeline, writes: list[int]) -> None:
    for number in range(1200):
        timeline.note(f"in_{number}", TimelineEventType.CREATED)
    await wait_until(lambda: sum(writes) == 1200)
    assert writes == [500, 500, 200]


async def test_notes_that_come_during_a_write_are_gathered_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where something happens all the time, there would be no pause between two writes, each of a few."""
    timeline, writes = Timeline(), []

    async def interrupted(_: type[TimelineEntry], __: Any, rows: list[Any], durable: bool) -> None:
        writes.append([invoice for invoice, *_ in rows])
        if len(writes) < 3:
            timeline.note(f"in_{len(writes) + 1}", TimelineEventType.CREATED)

    monkeypatch.setattr(module, "insert_many", interrupted)
    timeline.note("in_1", TimelineEventType.CREATED)
    await timeline._write_all()
    assert writes == [["in_1"]]
    await timeline.close()
    assert writes == [["in_1"], ["in_2"], ["in_3"]]


async def test_closing_writes_what_still_waits() -> None:
    """Wherever between two batches it comes."""
    timeline = Timeline()
    timeline.open()
    for number in range(20):
        timeline.note(f"in_{number}", TimelineEventType.CREATED)
        await count_notes()
    await timeline.close()
    assert await count_notes() == 20


async def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 3)
    timeline = Timeline()
    for _ in range(5):
        timeline.note("in_1", TimelineEventType.CREATED)
    assert timeline.dropped == 2
    await timeline.close()
    assert len(await noted()) == 3


async def test_an_outage_loses_notes_and_nothing_else(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S33: counted, and the next notes are written again."""

    async def away(*_: Any, **__: Any) -> None:
        raise OperationalError("the database is away")

    with monkeypatch.context() as outage:
        outage.setattr(module, "insert_many", away)
        timeline.note("in_1", TimelineEventType.CREATED)
        timeline.note("in_1", TimelineEventType.NOTIFIED)
        await wait_until(lambda: timeline.dropped == 2)
    timeline.note("in_1", TimelineEventType.SETTLED)
    await wait_until(count_notes)
    assert await noted() == [("settled", None)]
