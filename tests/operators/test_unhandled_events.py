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
    """However many events there are, so many are read: ten million took four seconds."""
    at = now()
    for id, age in AGES.items():
        outcome = EventOutcome.UNHANDLED_TYPE
        await StripeEvent.create(
            id=id, type="customer.created", payload="{}", received_at=at - age, outcome=outcome
        )
    await StripeEvent.create(id="evt_3", type="invoice.paid", payload="{}", received_at=at, outcome="settled")
    shown = []
    for among in (100, 2):
        monkeypatch.setattr(module, "AMONG_NEWEST", among)
        events = await module.unhandled_events(at)
        shown.append({event.id for event in await events})
    assert shown == [{"evt_1", "evt_2"}, {"evt_2"}]
