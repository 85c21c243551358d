"""The load of the benches: waiting browsers and a publisher, each in a process of its own.

`LoadClients` is one process that holds thousands of real WebSockets with an epoll loop and a frame scanner
made by hand, so that what is measured is the server and not its load. What it hears it writes to a `Board`,
memory that all processes of the bench share; the publisher reads there what may be sent next.
Times are of the monotonic clock, which all processes of a machine share, in nanoseconds.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage, encode
from paidup.domain.payment_facts import Source
from paidup.domain.stages import Stage
from tests.bench.floors import CHANNEL

FORK = multiprocessing.get_context("fork")
"""Children begin at once and with what the bench has prepared; it has no threads and no running loop."""
AT_ONCE = 1_500
"""Handshakes without an answer. A listen queue holds 2,048: beyond it the kernel makes browsers wait."""
PER_ADDRESS = 150
FIRST_VERSION = 1_000_000
"""Published versions have seven digits, so that all messages are of one length."""
STAMP_DIGITS = 19
SOURCES = list(Source)
NO_TIMING, BY_STAMP, BY_CHANGE = range(3)


class Counters(ctypes.Structure):
    opened: int
    refused: int
    closed: int
    received: int
    told: int
    twice: int
    stages: int
    first_ns: int
    last_ns: int
    sampled: int
    timing: int
    ending: int
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("opened", "refused", "closed", "received", "told", "twice", "stages", "first_ns", "last_ns"),
            *("sampled", "timing", "ending"),
        )
    ]


class Board:
    """What listeners have heard: one place a listener, and the sums.

    `received` counts statuses that were news; `twice` those that were not, with nothing changed;
    `stages` the same version shown with another stage; `told` those that end a wait. `samples` are
    microseconds: from the publishing (BY_STAMP) or from the change that a terminal status tells (BY_CHANGE).
    """

    def __init__(self, listeners: int, samples: int = 0) -> None:
        self.last = RawArray(ctypes.c_int64, listeners)
        self.samples = RawArray(ctypes.c_int64, max(1, samples))
        self.counters = RawValue(Counters)
        self.arrived_ns = RawArray(ctypes.c_int64, listeners)
        """When each heard its first status."""
        self.told_ns = RawArray(ctypes.c_int64, listeners)
        """When each heard that it is active, and by which source; with BY_CHANGE only."""
        self.told_via = RawArray(ctypes.c_int8, listeners)
        self._frames = [b""] * listeners  # each process's own

    def hear(self, listener: int, frame: bytes) -> None:
        """A text frame came."""
        at = frame.find(b'"version":')
        if at < 0:
            return  # a heartbeat, a close
        counters = self.counters
        version = int(frame[at + 10 : frame.index(b",", at)])
        before = self.last[listener]
        if version <= before:
            if version < before or frame == self._frames[listener]:
                counters.twice += 1
            else:
                counters.stages += 1
            self._frames[listener] = frame
            return
        self._frames[listener] = frame
        self.last[listener] = version
        if before == 0:
            self.arrived_ns[listener] = counters.last_ns = time.monotonic_ns()
            counters.opened += 1
            return
        counters.received += 1
        if counters.timing:
            self._time(listener, frame)

    def _time(self, listener: int, frame: bytes) -> None:
        counters = self.counters
        if counters.timing == BY_STAMP:
            at = frame.find(b'"plan":"') + 8
            took_us = (time.monotonic_ns() - int(frame[at : at + STAMP_DIGITS])) // 1000
        elif b'"status":"active"' in frame:
            counters.told += 1
            self.told_ns[listener] = time.monotonic_ns()
            self.told_via[listener] = SOURCES.index(Source(_text_of(frame, b'"via":"')))
            changed = datetime.fromisoformat(_text_of(frame, b'"at":"'))
            took_us = int((time.time() - changed.timestamp()) * 1e6)
        else:
            return
        if counters.sampled < len(self.samples):
            self.samples[counters.sampled] = took_us
            counters.sampled += 1

    def taken(self, skip: int = 0) -> list[float]:
        """The samples so far in ms, without the first `skip`."""
        return [each / 1000 for each in self.samples[skip : self.counters.sampled]]


def _text_of(frame: bytes, name: bytes) -> str:
    at = frame.index(name) + len(name)
    return frame[at : frame.index(b'"', at)].decode()


class Job:
    """A function in a process of its own; it is killed by its id at the latest when the block ends."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._answers, ours = FORK.Pipe(duplex=False)
        self._process = FORK.Process(target=_answered, args=(ours, function, *arguments), daemon=True)
        self._process.start()
        ours.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def result(self, within_s: float) -> Any:
        """What it returned. Raises where it failed or took too long."""
        if not self._answers.poll(within_s):
            self.stop()
            raise TimeoutError(f"{self._process.name} did not end within {within_s} s")
        try:
            return self._answers.recv()
        except EOFError:
            raise AssertionError("a process of the bench has failed; its error is above") from None
        finally:
            self.stop()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _answered(answers: Any, function: Callable[..., Any], *arguments: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the bench's own cleans up what is not ours
    answers.send(function(*arguments))


@contextmanager
def running(function: Callable[..., Any], *arguments: Any) -> Iterator[Job]:
    job = Job(function, *arguments)
    try:
        yield job
    finally:
        job.stop()


# Browsers


class _Browser:
    __slots__ = ("answered", "number", "rest", "socket")

    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.socket = connection
        self.answered = False
        self.rest = b""


class LoadClients:
    """`requests` are the handshakes, one a browser; browser n writes to the board's place n."""

    def __init__(self, port: int, requests: Sequence[bytes], board: Board) -> None:
        self._port = port
        self._requests = requests
        self._board = board
        self._epoll = select.epoll()
        self._browsers: dict[int, _Browser] = {}
        self._next = self._unanswered = 0

    def run(self) -> None:
        """Connect all, then listen until the board says that it ends."""
        counters = self._board.counters
        counters.first_ns = time.monotonic_ns()
        while not counters.ending:
            while self._next < len(self._requests) and self._unanswered < AT_ONCE:
                self._connect(self._next)
                self._next += 1
                if self._next % 50 == 0:
                    break  # answers are read meanwhile
            timeout = 0.0 if self._next < len(self._requests) and self._unanswered < AT_ONCE else 0.05
            for descriptor, events in self._epoll.poll(timeout):
                browser = self._browsers[descriptor]
                if events & select.EPOLLIN:
                    self._read(browser)
                elif events & (select.EPOLLHUP | select.EPOLLERR):
                    self._drop(browser)
                else:
                    browser.socket.send(self._requests[browser.number])
                    self._epoll.modify(descriptor, select.EPOLLIN)
        for browser in self._browsers.values():
            browser.socket.close()

    def _connect(self, number: int) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.bind((f"127.0.{1 + number // PER_ADDRESS // 250}.{1 + number // PER_ADDRESS % 250}", 0))
        connection.connect_ex(("127.0.0.1", self._port))
        self._browsers[connection.fileno()] = _Browser(number, connection)
        self._epoll.register(connection.fileno(), select.EPOLLOUT)
        self._unanswered += 1

    def _drop(self, browser: _Browser) -> None:
        if not browser.answered:
            self._unanswered -= 1
            self._board.counters.refused += 1
        else:
            self._board.counters.closed += 1
        del self._browsers[browser.socket.fileno()]
        browser.socket.close()

    def _read(self, browser: _Browser) -> None:
        try:
            data = browser.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(browser)
            return
        if browser.rest:
            data, browser.rest = browser.rest + data, b""
        if not browser.answered:
            head, end, frames = data.partition(b"\r\n\r\n")
            if not end:
                browser.rest = data
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._drop(browser)
                return
            browser.answered, data = True, frames
            self._unanswered -= 1
        self._scan(browser, data)

    def _scan(self, browser: _Browser, data: bytes) -> None:
        """Take whole frames off `data`. A server's frames are not masked, and ours are short."""
        position, end = 0, len(data)
        while end - position >= 4 or (end - position >= 2 and data[position + 1] < 126):
            size, begin = data[position + 1], position + 2
            if size == 126:
                size, begin = data[position + 2] << 8 | data[position + 3], position + 4
            if begin + size > end:
                break
            code = data[position] & 15
            position = begin + size
            if code == 1:
                self._board.hear(browser.number, data[begin:position])
            elif code == 9:
                with suppress(OSError):
                    browser.socket.send(b"\x8a" + bytes([0x80 | size, 0, 0, 0, 0]) + data[begin:position])
            elif code == 8:
                self._drop(browser)
                return
        browser.rest = data[position:]


# The publisher


class Link:
    """A connection to Redis that only sends."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.sendall(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n")
        self.send = self._socket.sendall


class Message:
    """PUBLISH of one invoice's status, encoded but for the version and the time of publishing."""

    __slots__ = ("_head", "_middle", "_tail")

    def __init__(self, invoice: str) -> None:
        version, stamp = "7654321", "5" * STAMP_DIGITS
        status = StatusMessage(
            invoice=invoice,
            version=int(version),
            status=InvoiceStatus.PROCESSING,
            stage=Stage.PROCESSING,
            plan=stamp,
            credits_granted=0,
            balance=0,
            via=None,
            at=datetime.now(UTC),
        )
        frame, channel = encode(status), f"{CHANNEL}{invoice}".encode()
        command = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            *(len(channel), channel, len(frame), frame),
        )
        self._head, rest = command.split(version.encode())
        self._middle, self._tail = rest.split(stamp.encode())

    def now(self, version: int) -> bytes:
        stamp = b"%019d" % time.monotonic_ns()
        return b"%b%d%b%b%b" % (self._head, version, self._middle, stamp, self._tail)


def publish_paced(path: str, messages: Sequence[Message], board: Board, rate: int, seconds: float) -> int:
    """So many a second, each to the next invoice. Returns how many were lost."""
    link, versions, before = Link(path), [FIRST_VERSION] * len(messages), board.counters.received
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        listener = number % len(messages)
        versions[listener] += 1
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        link.send(messages[listener].now(versions[listener]))
    return _lost(board, before + int(rate * seconds))


def publish_all(
    path: str, messages: Sequence[Message], board: Board, seconds: float, warm_s: float = 1.0
) -> tuple[float, int]:
    """As many as go through, one under way to each listener. Returns how many a second, how many were lost.

    The next message goes to an invoice once its listener has heard the one before: so nothing is
    replaced by something newer, and what is lost is seen.
    """
    link, sent = Link(path), 0
    awaited, before = board.last[:], board.counters.received
    began = time.monotonic()
    mark: tuple[float, int] | None = None
    while (at := time.monotonic()) < began + warm_s + seconds:
        if mark is None and at >= began + warm_s:
            mark = at, board.counters.received
        batch = []
        for listener, (wanted, heard) in enumerate(zip(awaited, board.last[:], strict=True)):
            if heard == wanted:
                awaited[listener] = max(wanted, FIRST_VERSION) + 1
                batch.append(messages[listener].now(awaited[listener]))
                sent += 1
                if len(batch) == 100:
                    link.send(b"".join(batch))
                    batch.clear()
        link.send(b"".join(batch))
        if len(batch) < len(messages) // 20:
            time.sleep(0.001)  # looking costs, too: wait until it is worth it
    assert mark is not None
    rate = (board.counters.received - mark[1]) / (at - mark[0])
    return rate, _lost(board, before + sent)


def _lost(board: Board, wanted: int, within_s: float = 5.0) -> int:
    """How many of the statuses that were sent do not arrive, or were replaced by a newer one."""
    deadline = time.monotonic() + within_s
    while (missing := wanted - board.counters.received) and time.monotonic() < deadline:
        time.sleep(0.01)
    return missing
