"""The embedded Valkey: a real server, shared by a host's processes, stopped with its starter."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from paidup.runtime.embedded_valkey import SOCKET_PATH_LIMIT, embedded_valkey, socket_path
from paidup.runtime.redis_client import connect_redis
from tests.support.processes import alive, descendants


async def answers(url: str) -> bool:
    client = connect_redis(url)
    try:
        return bool(await client.ping())
    finally:
        await client.aclose()


async def test_a_second_process_uses_the_same_valkey(scratch: Path) -> None:
    """Server and worker on one host exchange messages without any configuration."""
    folder = scratch / "shared"
    folder.mkdir()
    with embedded_valkey(folder) as first:
        with embedded_valkey(folder) as second:
            assert first == second == f"unix://{folder / 'valkey' / 'valkey.sock'}"
            assert await answers(second)
        assert await answers(first), "the one who joined must not end it"
    with pytest.raises(RedisConnectionError):
        await answers(first)


async def test_it_starts_again_at_the_same_address(scratch: Path) -> None:
    folder = scratch / "again"
    folder.mkdir()
    for _ in range(2):
        with embedded_valkey(folder) as url:
            assert await answers(url)


async def test_ctrl_c_in_a_terminal_does_not_stop_it(scratch: Path) -> None:
    """A terminal sends SIGINT to all processes of a command; draining ones still need it."""
    folder = scratch / "terminal"
    folder.mkdir()
    before = set(descendants())
    with embedded_valkey(folder) as url:
        (valkey,) = set(descendants()) - before
        os.kill(valkey, signal.SIGINT)
        assert await answers(url)
        assert alive(valkey)
    assert not alive(valkey)


async def test_two_data_directories_have_two_valkeys(scratch: Path) -> None:
    one, two = scratch / "one", scratch / "two"
    one.mkdir()
    two.mkdir()
    with embedded_valkey(one) as first, embedded_valkey(two) as second:
        assert first != second
        assert await answers(first)
        assert await answers(second)


async def test_a_long_path_works(tmp_path: Path) -> None:
    """The path of a Unix socket can have 107 bytes; a home directory's may be longer."""
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    assert len(str(socket_path(folder))) <= SOCKET_PATH_LIMIT
    with embedded_valkey(folder) as url:
        assert await answers(url)


def test_each_long_path_has_its_own_socket(tmp_path: Path) -> None:
    assert socket_path(tmp_path / ("a" * 150)) != socket_path(tmp_path / ("b" * 150))


def test_a_missing_directory_is_created(scratch: Path) -> None:
    """A new checkout has no data directory."""
    folder = scratch / "fresh" / "data"
    with embedded_valkey(folder) as url:
        assert url.startswith("unix://")
        assert folder.is_dir()
