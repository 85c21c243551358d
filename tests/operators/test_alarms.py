"""The alarms, and the metrics that show them: on while it is so, off afterwards, from any process."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from paidup.clock import now
from paidup.db.models import Invoice, StripeEvent
from paidup.errors import StripeUnavailable
from paidup.metrics import Metrics
from paidup.reconciliation.alarms import ALARMS, OVERDUE, Alarms, due_queues, look
from paidup.redis_client import connect_redis
from paidup.stripe_api.rate_limiter import RateLimiter
from paidup.web import health as operations
from tests.conftest import World
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import environment
from tests.support.processes import Child, free_port


async def names() -> list[str]:
    return [alarm.name for alarm in (await look()).alarms]


async def test_what_is_overdue_is_an_alarm_until_it_is_done(database: None) -> None:
    """What is due is no alarm yet: only that nobody takes it up."""
    assert await names() == []
    invoice = await an_invoice(await an_account(), next_check_at=now() - OVERDUE / 2)
    assert [(queue.name, queue.due) for queue in await due_queues()] == [
        ("events", 0),
        ("invoices", 1),
        ("versions", 0),
    ]
    assert await names() == []
    await Invoice.filter(id=invoice.id).update(next_check_at=now() - OVERDUE * 2)
    (alarm,) = (await look()).alarms
    assert alarm.name == "reconciler_behind"
    assert "1 invoices; the oldest for 20 minutes" in alarm.text
    await Invoice.filter(id=invoice.id).update(next_check_at=None)
    assert await names() == []


async def test_an_event_that_was_given_up_is_an_alarm_until_it_is_handled(database: None) -> None:
    """S15: an unknown price or customer waits for a person, and says so."""
    event: dict[str, Any] = {"id": "evt_1", "type": "invoice.paid", "payload": "{}", "received_at": now()}
    await StripeEvent.create(**event, attempts=11, next_attempt_at=now() + timedelta(hours=1))
    assert await names() == []
    await StripeEvent.filter(id="evt_1").update(attempts=12, next_attempt_at=None)
    assert await names() == ["events_given_up"]
    await StripeEvent.filter(id="evt_1").update(handled_at=now())
    assert await names() == []


async def read(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as response:
        assert response.status == 200
        return await response.text()


async def test_any_server_shows_every_alarm_and_what_is_due(
    world: World, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the alarm of a missing worker needs no worker; with the database away, nothing is claimed."""
    paidup = await world.server()
    await an_invoice(await an_account(), next_check_at=now() - OVERDUE * 2)
    shown = await read(http, f"{paidup.url}/metrics")
    for name in ALARMS:
        assert f'paidup_alarm{{name="{name}"}} {float(name == "reconciler_behind")}' in shown
    assert 'paidup_reconciler_backlog{queue="invoices"} 1.0' in shown
    assert 'paidup_up{part="database"} 1.0' in shown
    assert 'paidup_up{part="redis"} 1.0' in shown

    async def away(*_: Any) -> bool:
        return False

    monkeypatch.setattr(operations, "probe", away)
    shown = await read(http, f"{paidup.url}/metrics")
    assert 'paidup_up{part="database"} 0.0' in shown
    assert "paidup_alarm{" not in shown
    assert "paidup_reconciler_backlog{" not in shown


async def test_the_alarms_are_looked_up_once_in_a_while(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/readyz and /metrics may be asked each second."""
    alarms = Alarms()
    assert await alarms.current() == []
    await an_invoice(await an_account(), next_check_at=now() - OVERDUE * 2)
    assert await alarms.current() == []
    monkeypatch.setattr("paidup.reconciliation.alarms.REMEMBERED_S", 0)
    assert [alarm.name for alarm in await alarms.current()] == ["reconciler_behind"]


async def test_the_budgets_use_is_counted(valkey: str) -> None:
    redis, metrics = connect_redis(valkey), Metrics()
    budget = RateLimiter(redis, 1, metrics)
    endpoint = f"invoices.{free_port()}"  # of this test alone
    await budget.take(endpoint, 1)
    with pytest.raises(StripeUnavailable):
        await budget.take(endpoint, 0.1)
    await budget.refused(endpoint, asyncio.get_running_loop().time(), 0)
    await redis.aclose()

    def counted(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"endpoint": endpoint, **labels})

    assert counted("paidup_stripe_requests_total", purpose="customer") == 1
    assert counted("paidup_stripe_rate_limit_timeouts_total") == 1
    assert counted("paidup_stripe_rate_limited_total") == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_worker_shows_its_metrics_where_it_is_told_to(
    home: Path, world: World, http: aiohttp.ClientSession
) -> None:
    """The sweeps and the audit are counted there and nowhere else. A taken port is said."""
    port = free_port()
    given = environment(**world.given(worker_metrics_port=port, reconciler_interval_s=0.05))
    work = ["-m", "paidup.cli", "work"]
    worker = Child(work, given, home / "worker.log", cwd=home)
    try:
        await asyncio.to_thread(worker.wait_for, f"http://127.0.0.1:{port}/metrics")
        assert "paidup_ledger_mismatches_total 0.0" in await read(http, f"http://127.0.0.1:{port}/metrics")
        second = Child(work, given, home / "second.log", cwd=home)
        assert await asyncio.to_thread(second.process.wait, 30) == 2
        assert "settings: WORKER_METRICS_PORT: " in second.output
    finally:
        assert worker.stop() == 0
