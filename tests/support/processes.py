"""Child processes of the tests: started on free loopback ports, stopped by their process id."""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.support.forkserver import ForkedProcess
from tests.support.terminals import terminal

ROOT = Path(__file__).parents[2]
COME_UP_WITHIN_S = 100.0
END_WITHIN_S = 40.0
"""redis-py swallows a cancellation that meets a failing connection: the next comes ten seconds later."""


def _ports() -> Iterator[int]:
    """Ports of this process alone: each worker of a parallel run has a range of its own.

    Below those that the system gives to outgoing connections. A program that asks the system for a free
    port gets one that another process may get as well, before either has bound it.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw6").removeprefix("gw")
    first = 10_000 + 3_000 * (int(worker) % 7)
    begin = os.getpid() * 7 % 3_000  # other runs on this machine
    return itertools.cycle(first + (begin + number) % 3_000 for number in range(3_000))


_numbers = _ports()
_reserved: deque[socket.socket] = deque()


def free_port() -> int:
    """A loopback port on which nobody listens now, and which no other test of this machine is given soon."""
    for port in itertools.islice(_numbers, 3_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _reserve(port)
            return port
    raise AssertionError("no port is free")


def _reserve(port: int) -> None:
    """Until the hundredth port after this one. Raises OSError where another run of tests has reserved it.

    A name without a file, as only Linux has them: it is free again when this process ends, however it does.
    """
    if not sys.platform.startswith("linux"):
        return
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0paidup-test-port-{port}")
    except OSError:
        name.close()
        raise
    _reserved.append(name)
    if len(_reserved) > 100:
        _reserved.popleft().close()


@atexit.register
def _release_ports() -> None:
    while _reserved:
        _reserved.pop().close()


class Child:
    """One process. Its output goes to a file, shown when something goes wrong.

    `through` is a command that runs another in its own place, as `ip netns exec NAME` does. With `forked`
    it is not started, but forked from a process that has imported its modules already: much cheaper, and
    the same but for its name in a list of processes and for what its memory is said to be. `on_terminal`:
    its output goes to a terminal, and from there to the file.
    """

    process: subprocess.Popen[bytes] | ForkedProcess

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        cwd: Path = ROOT,
        through: Sequence[str] = (),
        forked: bool = False,
        on_terminal: bool = False,
    ) -> None:
        self.log = log
        inherited = {
            name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ
        }
        environment = {**inherited, "PYTHONPATH": str(ROOT), **environment}
        with terminal(log) if on_terminal else log.open("ab") as output:
            if forked and hasattr(os, "pidfd_open"):
                assert arguments[0] == "-m", "only a module can be forked"
                self.process = ForkedProcess(arguments[1], arguments[2:], environment, cwd, output)
                return
            self.process = subprocess.Popen(
                [*through, sys.executable, *arguments],
                env=environment,
                cwd=cwd,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, url: str) -> None:
        """Until `url` answers 200."""
        deadline = time.monotonic() + COME_UP_WITHIN_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.output}")
            try:
                with urllib.request.urlopen(url, timeout=2) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.02)
        raise AssertionError(f"{url} did not answer within {COME_UP_WITHIN_S} s:\n{self.output}")

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL where that does not suffice in time. The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()


def descendants(pid: int | None = None) -> dict[int, str]:
    """The processes below `pid` (default: this one), each with its command line."""
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found[int(child.pid)] = " ".join(child.cmdline())
    return found


def alive(pid: int) -> bool:
    """Whether this process runs still; one that has ended and was not waited for does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
