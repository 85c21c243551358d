"""Moments of the demo: asked for through a Unix socket, one at a time, each with its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from paidup.embedded_valkey import embedded_valkey
from paidup.redis_client import connect_redis
from paidup_demo import supervisor
from paidup_demo.timeline import fault_injection as moments
from paidup_demo.timeline.fault_injection import Moments, Told, ask
from tests.support.waiting import wait_until


async def test_a_moment_has_its_begin_and_its_end_and_none_overlaps_it(tmp_path: Path) -> None:
    over, carried_out = asyncio.Event(), []

    async def deed() -> None:
        carried_out.append("restart")
        await over.wait()

    path = moments.address(tmp_path)
    async with Moments({"restart": deed, "redis": deed}).served(path):
        assert await ask(path) == Told(["redis", "restart"], [])
        assert (path.stat().st_mode & 0o777) == 0o600
        (first,) = (await ask(path, "restart")).moments
        assert first.ended is None
        assert len((await ask(path, "redis")).moments) == 1
        over.set()

        async def ended() -> bool:
            return (await ask(path, "no such thing")).moments[0].ended is not None

        await wait_until(ended)
    assert carried_out == ["restart"]


async def test_where_no_supervisor_listens_nothing_can_be_had(tmp_path: Path) -> None:
    assert await ask(moments.address(tmp_path), "restart") == Told([], [])


async def test_a_frozen_valkey_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not answer meanwhile; it goes on also where the demo is stopped before the time is over."""
    monkeypatch.setattr(supervisor, "REDIS_AWAY_S", 60.0)
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
