"""Fault injection: faults are requested through a Unix socket, run one at a time, and end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from paidup.runtime.embedded_valkey import embedded_valkey
from paidup.runtime.redis_client import connect_redis
from paidup_demo import supervisor
from paidup_demo.timeline.fault_injection import FaultInjector, FaultReport, control_socket, request_fault
from tests.support.waiting import wait_until


async def test_faults_end_and_never_overlap(tmp_path: Path) -> None:
    over, runs = asyncio.Event(), []

    async def action() -> None:
        runs.append("restart")
        await over.wait()

    path = control_socket(tmp_path)
    async with FaultInjector({"restart": action, "redis": action}).served(path):
        assert await request_fault(path) == FaultReport(["redis", "restart"], [])
        assert (path.stat().st_mode & 0o777) == 0o600
        (first,) = (await request_fault(path, "restart")).faults
        assert first.ended is None
        assert len((await request_fault(path, "redis")).faults) == 1
        over.set()

        async def ended() -> bool:
            return (await request_fault(path, "no such thing")).faults[0].ended is not None

        await wait_until(ended)
    assert runs == ["restart"]


async def test_without_a_supervisor_no_fault_is_available(tmp_path: Path) -> None:
    assert await request_fault(control_socket(tmp_path), "restart") == FaultReport([], [])


async def test_a_frozen_valkey_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not answer while frozen, and resumes even if the demo is stopped before the time is over."""
    monkeypatch.setattr(supervisor, "REDIS_OUTAGE_S", 60.0)
    with embedded_valkey(tmp_path) as url:
        freezing = asyncio.create_task(supervisor._freeze(await supervisor._valkey_process(url)))
        redis = connect_redis(url)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await redis.ping()
        freezing.cancel()
        await asyncio.gather(freezing, return_exceptions=True)
        assert await redis.ping()
        await redis.aclose()
