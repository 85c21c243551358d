"""Traces: what became of one payment, in every process, as one trace of OpenTelemetry's.

The trace begins with the request that buys; a page may continue its own with `traceparent`
(https://www.w3.org/TR/trace-context/). It is kept in the invoice's row, so that a webhook, a
verification or a sweep joins it as soon as it has read that row: an *operation* and its *steps* are
noted while they last, and become spans at its end, when their trace is known.

Off by default, at the cost of one comparison: `telemetry.py` turns it on. No attribute holds a secret, nor
an id that opens something.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import msgspec

MAX_STEPS = 200
"""Of one operation; a sweep may make thousands."""


class Kind(StrEnum):
    """OpenTelemetry's span kinds that are used here."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"


class Destination(msgspec.Struct, frozen=True):
    """Where spans go: an OTLP endpoint (HTTP), headers for it, and which share of all traces is sampled."""

    endpoint: str = ""
    headers: Mapping[str, str] = {}
    service: str = "paidup"
    ratio: float = 1.0


class Noted(NamedTuple):
    """Something that began and ended, in nanoseconds of Unix time. `failed`: the error's type, or nothing."""

    name: str
    kind: Kind
    began: int
    ended: int
    attributes: Mapping[str, Any]
    failed: str = ""


class Exporter(Protocol):
    """Makes spans: see spans.py."""

    def begin(self, name: str, kind: Kind, parent: str | None, began: int) -> Any:
        """A span of the trace `parent` (a traceparent), or of a new one."""

    def traceparent(self, span: Any) -> str:
        """What continues the trace after this span."""

    def end(self, span: Any, noted: Noted, steps: list[Noted]) -> None:
        """End the span, with a child for each step."""

    def add(self, span: Any, step: Noted) -> None:
        """A child of a span, which may have ended."""


_exporter: Exporter | None = None
_current: ContextVar[Operation | None] = ContextVar("paidup_operation", default=None)


@contextmanager
def exporting(exporter: Exporter) -> Iterator[None]:
    """Trace in this process for the length of the block."""
    global _exporter  # noqa: PLW0603 (one for a process, as OpenTelemetry's own provider is)
    before, _exporter = _exporter, exporter
    try:
        yield
    finally:
        _exporter = before


class Operation:
    """Something that a process does, and its steps. Its trace is its parent's, or a new one."""

    __slots__ = (
        *("_began", "_ended", "_exporter", "_parent", "_span", "_steps"),
        *("attributes", "failed", "kind", "name"),
    )

    def __init__(self, exporter: Exporter, name: str, kind: Kind, parent: str | None) -> None:
        self.name = name
        self.kind = kind
        self.attributes: dict[str, Any] = {}
        self.failed = ""
        self._exporter = exporter
        self._began = time.time_ns()
        self._parent = parent
        self._span: Any = None
        self._steps: list[Noted] = []
        self._ended = False

    def adopt(self, traceparent: str) -> None:
        """Join this trace, unless the operation has one already."""
        if self._parent is None and self._span is None:
            self._parent = traceparent

    @property
    def traceparent(self) -> str:
        """What continues the trace after this operation, in whatever process."""
        return self._exporter.traceparent(self._begin())

    @property
    def trace(self) -> str | None:
        """The id of its trace, if that is known yet."""
        known = self._parent or (self.traceparent if self._span is not None else None)
        return known[3:35] if known else None

    def add(self, step: Noted) -> None:
        if self._ended:  # of a task that outlasts the request which began it
            self._exporter.add(self._span, step)
        elif len(self._steps) < MAX_STEPS:
            self._steps.append(step)

    def end(self) -> None:
        span = self._begin()
        self._ended = True
        noted = Noted(self.name, self.kind, self._began, time.time_ns(), self.attributes, self.failed)
        self._exporter.end(span, noted, self._steps)

    def _begin(self) -> Any:
        if self._span is None:
            self._span = self._exporter.begin(self.name, self.kind, self._parent, self._began)
        return self._span


_UNTRACED: AbstractContextManager[None] = nullcontext()


def operation(
    name: str, kind: Kind = Kind.INTERNAL, parent: str | None = None
) -> AbstractContextManager[Operation | None]:
    """An operation of its own, which `step` and `adopt` find. None where tracing is off."""
    return _UNTRACED if _exporter is None else _operation(_exporter, name, kind, parent)


@contextmanager
def _operation(exporter: Exporter, name: str, kind: Kind, parent: str | None) -> Iterator[Operation]:
    begun = Operation(exporter, name, kind, parent)
    token = _current.set(begun)
    try:
        yield begun
    except BaseException as error:
        begun.failed = type(error).__name__
        raise
    finally:
        _current.reset(token)
        begun.end()


def step(name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[dict[str, Any] | None]:
    """A step of the current operation, or an operation of its own: its attributes. None: tracing is off."""
    return _UNTRACED if _exporter is None else _step(_exporter, name, kind)


@contextmanager
def _step(exporter: Exporter, name: str, kind: Kind) -> Iterator[dict[str, Any]]:
    current = _current.get()
    if current is None:
        with _operation(exporter, name, kind, None) as own:
            yield own.attributes
        return
    attributes: dict[str, Any] = {}
    began, failed = time.time_ns(), ""
    try:
        yield attributes
    except BaseException as error:
        failed = type(error).__name__
        raise
    finally:
        current.add(Noted(name, kind, began, time.time_ns(), attributes, failed))


def record(name: str, traceparent: str, took_s: float, attributes: Mapping[str, Any]) -> None:
    """A span of this trace that has just ended, after `took_s` seconds."""
    if _exporter is not None:
        ended = time.time_ns()
        noted = Noted(name, Kind.INTERNAL, ended - int(took_s * 1e9), ended, attributes)
        _exporter.end(_exporter.begin(name, noted.kind, traceparent, noted.began), noted, [])


def adopt(traceparent: str) -> None:
    """Have the current operation join this trace, unless it has one already."""
    if (current := _current.get()) is not None:
        current.adopt(traceparent)


def current_traceparent() -> str | None:
    """What continues the current operation's trace; None where there is none."""
    current = _current.get()
    return current.traceparent if current is not None else None


def current_trace() -> str | None:
    """The id of the current operation's trace, if that is known yet: for log lines."""
    current = _current.get()
    return current.trace if current is not None else None
