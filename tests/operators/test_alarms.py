"""Alarms and their metrics: on while the problem lasts, off afterwards, the same from every process."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from paidup.db.models import Invoice, StripeEvent
from paidup.errors import StripeUnavailable
from paidup.reconciliation import alarms
from paidup.reconciliation.alarms import ALARMS, OVERDUE, Alarms, due_queues, take_snapshot
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import connect_redis
from paidup.stripe_api.rate_limiter import RateLimiter
from paidup.web import health as operations
from tests.conftest import World
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import Paidup, environment
from tests.support.processes import Child, free_port
from tests.support.waiting import wait_until


async def names() -> list[str]:
    return [alarm.name for alarm in (await take_snapshot()).alarms]


async def test_overdue_work_raises_an_alarm_until_it_is_done(database: None) -> None:
    """Work that is due raises no alarm until it is overdue."""
    assert await names() == []
    invoice = await an_invoice(await an_account(), next_check_at=now() - OVERDUE / 2)
    assert [(queue.name, queue.due) for queue in await due_queues()] == [
        ("events", 0),
        ("invoices", 1),
        ("sessions", 0),
        ("versions", 0),
    ]
    assert await names() == []
    await Invoice.filter(id=invoice.id).update(next_check_at=now() - OVERDUE * 2)
    (alarm,) = (await take_snapshot()).alarms
    assert alarm.name == "reconciler_behind"
    assert "1 invoices; the oldest for 20 minutes" in alarm.text
    await Invoice.filter(id=invoice.id).update(next_check_at=None)
    assert await names() == []


async def test_no_more_than_a_number_is_counted_of_what_is_due(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "COUNTED", 2)
    for _ in range(3):
        await an_invoice(await an_account(), next_check_at=now() - OVERDUE * 2)
    assert [queue.due for queue in await due_queues()] == [0, 2, 0, 0]
    (alarm,) = (await take_snapshot()).alarms
    assert "Due and not done: 2 or more invoices; " in alarm.text


async def test_an_abandoned_event_raises_an_alarm_until_it_is_handled(database: None) -> None:
    """S15: an unknown price or customer needs an operator."""
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


async def test_every_server_exports_alarms_and_backlog(
    world: World, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm of a stopped worker needs no worker. With the database down, no values are exported."""
    paidup = await world.server()
    await an_invoice(await an_account(), next_check_at=now() - OVERDUE * 2)
    metrics = await read(http, f"{paidup.url}/metrics")
    for name in ALARMS:
        assert f'paidup_alarm{{name="{name}"}} {float(name == "reconciler_behind")}' in metrics
    assert 'paidup_reconciler_backlog{queue="invoices"} 1.0' in metrics
    assert 'paidup_up{part="database"} 1.0' in metrics
    assert 'paidup_up{part="redis"} 1.0' in metrics

    async def down(*_: Any) -> bool:
        return False

    monkeypatch.setattr(operations, "probe", down)
    metrics = await read(http, f"{paidup.url}/metrics")
    assert 'paidup_up{part="database"} 0.0' in metrics
    assert "paidup_alarm{" not in metrics
    assert "paidup_reconciler_backlog{" not in metrics


async def test_every_server_measures_the_delay_of_its_event_loop(
    paidup: Paidup, http: aiohttp.ClientSession
) -> None:
    async def measured() -> bool:
        metrics = await read(http, f"{paidup.url}/metrics")
        assert "paidup_event_loop_delay_seconds_count" in metrics
        return "paidup_event_loop_delay_seconds_count 0.0" not in metrics

    await wait_until(measured)


async def test_alarms_are_cached(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """/readyz and /metrics may be requested every second."""
    alarms = Alarms()
    assert await alarms.current() == []
    await an_invoice(await an_account(), next_check_at=now() - OVERDUE * 2)
    assert await alarms.current() == []
    monkeypatch.setattr("paidup.reconciliation.alarms.CACHED_S", 0)
    assert [alarm.name for alarm in await alarms.current()] == ["reconciler_behind"]


async def test_the_rate_limiters_use_is_counted(valkey: str) -> None:
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
async def test_a_worker_serves_metrics_on_its_port(
    home: Path, world: World, http: aiohttp.ClientSession
) -> None:
    """Sweeps and the audit are counted only there. A port in use is reported as an invalid setting."""
    port = free_port()
    given = environment(**world.given(worker_metrics_port=port, reconciler_interval_s=0.05))
    work = ["-m", "paidup.cli", "work"]
    worker = Child(work, given, home / "worker.log", cwd=home, forked=True)
    try:
        await asyncio.to_thread(worker.wait_for, f"http://127.0.0.1:{port}/metrics")
        assert "paidup_ledger_mismatches_total 0.0" in await read(http, f"http://127.0.0.1:{port}/metrics")
        second = Child(work, given, home / "second.log", cwd=home, forked=True)
        assert await asyncio.to_thread(second.process.wait, 30) == 2
        assert "settings: WORKER_METRICS_PORT: " in second.output
    finally:
        assert worker.stop() == 0
