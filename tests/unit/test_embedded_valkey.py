"""The embedded Valkey: real, shared by a host's processes, gone when its starter is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from paidup.embedded_valkey import SOCKET_PATH_LIMIT, embedded_valkey, socket_path
from paidup.redis_client import connect_redis
from tests.support.processes import alive, descendants


async def answers(url: str) -> bool:
    client = connect_redis(url)
    try:
        return bool(await client.ping())
    finally:
        await client.aclose()


async def test_whoever_comes_second_joins(scratch: Path) -> None:
    """Server and worker on one host hear each other without any configuration."""
    folder = scratch / "shared"
    folder.mkdir()
    with embedded_valkey(folder) as first:
        with embedded_valkey(folder) as second:
            assert first == second == f"unix://{folder / 'valkey' / 'valkey.sock'}"
            assert await answers(second)
        assert await answers(first), "the one who joined must not end it"
    with pytest.raises(RedisConnectionError):
        await answers(first)


async def test_it_starts_again_where_it_was(scratch: Path) -> None:
    folder = scratch / "again"
    folder.mkdir()
    for _ in range(2):
        with embedded_valkey(folder) as url:
            assert await answers(url)


async def test_ctrl_c_in_a_terminal_does_not_end_it_before_us(scratch: Path) -> None:
    """A terminal sends SIGINT to every process of the command; those who drain still need it."""
    folder = scratch / "terminal"
    folder.mkdir()
    before = set(descendants())
    with embedded_valkey(folder) as url:
        (valkey,) = set(descendants()) - before
        os.kill(valkey, signal.SIGINT)
        assert await answers(url)
        assert alive(valkey)
    assert not alive(valkey)


async def test_two_folders_have_two(scratch: Path) -> None:
    one, two = scratch / "one", scratch / "two"
    one.mkdir()
    two.mkdir()
    with embedded_valkey(one) as first, embedded_valkey(two) as second:
        assert first != second
        assert await answers(first)
        assert await answers(second)


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """A Unix socket's path holds 107 bytes; a home directory may be longer."""
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    assert len(str(socket_path(folder))) <= SOCKET_PATH_LIMIT
    with embedded_valkey(folder) as url:
        assert await answers(url)


def test_each_long_path_has_its_own_socket(tmp_path: Path) -> None:
    assert socket_path(tmp_path / ("a" * 150)) != socket_path(tmp_path / ("b" * 150))


def test_a_folder_that_is_not_there_yet_is_made(scratch: Path) -> None:
    """A fresh clone has no data directory."""
    folder = scratch / "fresh" / "data"
    with embedded_valkey(folder) as url:
        assert url.startswith("unix://")
        assert folder.is_dir()
