"""Processes of the tests, forked from one that has imported their modules already.

Starting Python and importing the server takes more than a second of a core, and the tests start the same
few commands some hundred times. Here one process, the fork server, imports what it is asked for, once, and
forks: each child then runs as `python -m MODULE` would, with its own session, folder, environment and output.

The fork server has no thread, no event loop, and only the connections of its clients. Each child has a
monitor between itself and the fork server. The monitor tells the client how the child ended; when the client
goes away, it kills the child, so no child outlives the test that started it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import iter_modules
from select import POLLIN, poll
from typing import BinaryIO

import msgspec

import paidup.commands

VARIABLE = "TESTS_FORKSERVER"
"""Names the fork server's socket to the children, which may have children of their own."""
LOADED_LATE = (
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "paidup.web.websocket.lightweight_protocol",
    "paidup_demo.sandbox.app",
    "paidup_demo.supervisor",
    "tortoise.backends.asyncpg",
    "tortoise.backends.sqlite",
    "typer._adapters",
    *(f"paidup.commands.{name}" for _, name, _ in iter_modules(paidup.commands.__path__)),
)
"""What the command line, the server and the sandbox import only when they run."""
MAX_MESSAGE = 2**16


class Order(msgspec.Struct):
    """What a child is to run, and in which surroundings."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    cwd: str


# The client's side


class ForkedProcess:
    """A child of the fork server, which can be asked what a `subprocess.Popen` can be asked here."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        output: BinaryIO,
    ) -> None:
        path = forkserver()
        order = Order(module, list(arguments), {**environment, VARIABLE: path}, str(cwd))
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.connect(path)
        socket.send_fds(self._line, [msgspec.json.encode(order)], [output.fileno()])
        self._lock = threading.Lock()
        self._pid = self._pidfd = -1
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        while self._pid < 0:
            self._hear(None)
        return self._pid

    def poll(self) -> int | None:
        while self.returncode is None and self._hear(0):
            pass
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; minus the signal's number where one ended it. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._hear(left) and timeout is not None:
                raise subprocess.TimeoutExpired("a forked child", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        assert self.pid
        with self._lock:
            if self.returncode is None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _hear(self, timeout: float | None) -> bool:
        """Whether the fork server sent something in time: the child's id first, its exit status last."""
        waiting = poll()
        try:
            waiting.register(self._line, POLLIN)
        except ValueError:  # closed: another thread has heard the end
            return True
        if not waiting.poll(None if timeout is None else timeout * 1000):
            return self.returncode is not None
        with self._lock, suppress(BlockingIOError):
            if self.returncode is None:
                said, fds, _, _ = socket.recv_fds(self._line, MAX_MESSAGE, 1, socket.MSG_DONTWAIT)
                assert said, "the fork server is gone"
                if fds:
                    self._pid, (self._pidfd,) = int(said), fds
                else:
                    self.returncode = int(said)
                    self._line.close()
                    os.close(self._pidfd)
        return True


def forkserver() -> str:
    """The socket's path: of the fork server that made us, or of one of our own, started now."""
    with _starting:
        if VARIABLE not in os.environ:
            os.environ[VARIABLE] = _started()
        return os.environ[VARIABLE]


_starting = threading.Lock()


def _started() -> str:
    path = f"{tempfile.mkdtemp(prefix='pn-')}/socket"  # Unix sockets want short paths
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno())],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    atexit.register(process.communicate)
    return path


# The fork server's side


def serve(listener: socket.socket) -> Order:
    """Fork until standard input ends. Returns in each child, with what that is to run."""
    gc.disable()
    waiting = poll()
    waiting.register(listener, POLLIN)
    waiting.register(sys.stdin, POLLIN)
    while not any(fd == sys.stdin.fileno() for fd, _ in waiting.poll()):
        line, _ = listener.accept()
        with line:
            said, outputs, _, _ = socket.recv_fds(line, MAX_MESSAGE, 1)
            if not outputs:
                continue  # the client is gone
            order = msgspec.json.decode(said, type=Order)
            load(main_of(order.module))
            if os.fork() == 0:
                listener.close()
                keep(line, order, outputs[0])
                return order
            os.close(outputs[0])
        _reap(os.WNOHANG)
    shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)
    _reap()
    raise SystemExit


def _reap(options: int = 0) -> None:
    """The monitors that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def main_of(module: str) -> str:
    """What `python -m MODULE` runs: a package is run by its `__main__`."""
    with suppress(ImportError):
        found = importlib.util.find_spec(module)
        if found is not None and found.submodule_search_locations:
            return f"{module}.__main__"
    return module


def load(module: str) -> None:
    """Import what `module` will import. Where that fails, the child shall say so, and not we."""
    if module in sys.modules:
        return
    with suppress(Exception):
        for name in (module, *LOADED_LATE):
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose a thread"
    gc.collect()
    gc.freeze()  # the children's collectors need not touch, and so copy, what is here


def keep(line: socket.socket, order: Order, output: int) -> None:
    """Returns in the child. The monitor waits until the child has ended, or the client, and ends as well."""
    pid = os.fork()
    if pid == 0:
        line.close()
        settle_in(order, output)
        return
    pidfd = os.pidfd_open(pid)
    with suppress(OSError):  # the client may be gone
        socket.send_fds(line, [str(pid).encode()], [pidfd])
    waiting = poll()
    waiting.register(line, POLLIN)
    waiting.register(pidfd, POLLIN)
    if any(fd == line.fileno() for fd, _ in waiting.poll()):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):
        line.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def settle_in(order: Order, output: int) -> None:
    """As a process that was just started by `python -m`."""
    os.setsid()
    # A shell's background job ignores it, and so does every process below.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order.cwd)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    os.close(output)
    os.environ.clear()
    os.environ.update(order.environment)
    sys.path[0] = order.cwd
    sys.argv[1:] = order.arguments
    sys.modules.pop(main_of(order.module), None)  # it is run, and not imported
    gc.enable()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        ordered = serve(inherited)
    runpy.run_module(ordered.module, run_name="__main__", alter_sys=True)
