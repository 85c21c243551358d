"""Which stored events of types that are not handled are shown to an operator."""

from __future__ import annotations

from datetime import timedelta

import pytest

from paidup.db.models import StripeEvent
from paidup.operations import unhandled_events as module
from paidup.payments.outcomes import EventOutcome
from paidup.runtime.clock import now

AGES = {"evt_old": timedelta(days=8), "evt_1": timedelta(hours=3), "evt_2": timedelta(hours=2)}


@pytest.mark.usefixtures("database")
async def test_the_newest_of_the_last_days_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, so many are read for a text: ten million took four seconds."""
    at = now()
    for id, age in AGES.items():
        await StripeEvent.create(
            id=id,
            type="customer.created",
            payload='{"id": "cus_1"}',
            received_at=at - age,
            outcome=EventOutcome.UNHANDLED_TYPE,
        )
    await StripeEvent.create(
        id="evt_3", type="invoice.paid", payload='"cus_1"', received_at=at, outcome=EventOutcome.SETTLED
    )

    async def about(text: str, most: int = 9) -> list[str]:
        return [event.id for event in await module.unhandled_about(text, at, most)]

    assert [event.id for event in await module.unhandled_events(at, 9)] == ["evt_2", "evt_1"]
    assert [event.id for event in await module.unhandled_events(at, 1)] == ["evt_2"]
    assert [await about("cus_1"), await about("cus_1", 1)] == [["evt_2", "evt_1"], ["evt_2"]]
    assert [await about("cus"), await about("cus__")] == [[], []]
    monkeypatch.setattr(module, "AMONG_NEWEST", 1)
    assert await about("cus_1") == ["evt_2"]
