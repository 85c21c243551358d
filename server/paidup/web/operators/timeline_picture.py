"""Where the parts of a timeline are drawn. The template `timeline.html` makes an SVG of it.

Pure: a timeline and a width in, positions out. A timeline is drawn twice, for a wide and a narrow screen,
since no script measures one. Where the activation takes little of the axis, it is drawn again, enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from paidup.web.operators.timeline_lanes import Dot, InvoiceTimeline, Lane
from paidup.web.operators.words import duration_ms

WIDE, NARROW = 1040, 350
"""Pixels."""
LANE, AXIS, BEAM = 44, 26, 46
LENS_BELOW_SHARE = 0.12
TICKS_APART = 70
_TICK_BASES = (1, 2, 5)
_LONG_TICKS = (1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000)


@dataclass(frozen=True)
class Mark:
    """A dot of a lane; `text` says what it is."""

    x: float
    look: str
    text: str


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    look: str
    thick: int


@dataclass(frozen=True)
class Row:
    """`y` is its top."""

    y: int
    name: str
    summary: str
    bars: list[Bar]
    marks: list[Mark]


@dataclass(frozen=True)
class Tick:
    """`text` "": a line without a label."""

    x: float
    text: str
    anchor: str


@dataclass(frozen=True)
class Chart:
    y: int
    bottom: int
    rows: list[Row]
    ticks: list[Tick]
    settled: float | None


@dataclass(frozen=True)
class Beam:
    """From a part of the axis to its enlarged drawing."""

    left: float
    right: float
    top: int
    foot: int
    text: str


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    charts: list[Chart]
    beam: Beam | None


@dataclass(frozen=True)
class _Window:
    """A stretch of time, in milliseconds, over the whole width."""

    start: float
    to: float
    width: int

    def x(self, at: float) -> float:
        return round((at - self.start) / (self.to - self.start) * self.width, 1)

    def has(self, at: float) -> bool:
        return self.start <= at <= self.to


def draw(timeline: InvoiceTimeline, width: int) -> Picture:
    """The timeline in `width` pixels."""
    to = max(timeline.last, 20.0) * 1.06 + 2
    whole = _Window(-to * 0.015, to, width)
    height = len(timeline.lanes) * LANE + AXIS
    charts = [_chart(timeline, timeline.lanes, whole, 0)]
    lens = _lens(timeline, whole)
    if lens is None:
        return Picture(width, height, charts, None)
    enlarged = [lane for lane in timeline.lanes if any(lens.has(dot.at) for dot in lane.dots)]
    charts.append(_chart(timeline, enlarged, lens, height + BEAM))
    beam = _beam(whole, lens, height)
    return Picture(width, height + BEAM + len(enlarged) * LANE + AXIS, charts, beam)


def _lens(timeline: InvoiceTimeline, whole: _Window) -> _Window | None:
    """The first part, where all that matters happened in a small part of the axis."""
    done = timeline.settled or 0.0
    told = [dot.at for dot in timeline.lanes[0].dots if dot.text == "sent to the page"]
    if told and told[0] < done + 1000:
        done = max(done, told[0])
    if done <= 0 or done / (whole.to - whole.start) > LENS_BELOW_SHARE:
        return None
    return _Window(-done * 0.04, done * 1.12, whole.width)


def _beam(whole: _Window, lens: _Window, bottom: int) -> Beam:
    left = max(0.0, whole.x(lens.start))
    times = (whole.to - whole.start) / (lens.to - lens.start)
    shown = f"{times:.1f}" if times < 10 else f"{round(times):,}"
    text = f"the first {duration_ms(lens.to)}, enlarged {shown} times"
    return Beam(left, max(whole.x(lens.to), left + 2), bottom - AXIS, bottom + BEAM - 10, text)


def _chart(timeline: InvoiceTimeline, lanes: list[Lane], window: _Window, y: int) -> Chart:
    settled = timeline.settled
    shown = settled is not None and window.has(settled)
    return Chart(
        y=y,
        bottom=len(lanes) * LANE,
        rows=[_row(lane, index * LANE, window) for index, lane in enumerate(lanes)],
        ticks=list(_ticks(window)),
        settled=window.x(settled) if settled is not None and shown else None,
    )


def _row(lane: Lane, y: int, window: _Window) -> Row:
    dots = sorted((dot for dot in lane.dots if window.has(dot.at)), key=lambda dot: dot.look == "first")
    return Row(y, lane.name, lane.summary, list(_bars(lane, window)), [_mark(dot, window) for dot in dots])


def _mark(dot: Dot, window: _Window) -> Mark:
    return Mark(window.x(dot.at), dot.look, f"{duration_ms(dot.at)}: {dot.text}")


def _bars(lane: Lane, window: _Window) -> Iterator[Bar]:
    for span in lane.spans:
        start, to = max(span.start, window.start), min(span.to or window.to, window.to)
        if to > start:
            width = max(1.5, round(window.x(to) - window.x(start), 1))
            yield Bar(window.x(start), width, span.look, 7 if span.look == "work" else 2)


def _ticks(window: _Window) -> Iterator[Tick]:
    step = _step((window.to - window.start) / window.width * TICKS_APART)
    for count in range(int(window.to // step) + 1):
        x = window.x(count * step)
        anchor = "start" if x < 16 else "end" if x > window.width - 24 else "middle"
        yield Tick(min(float(window.width), max(0.0, x)), _label(count * step, step), anchor)


def _step(least: float) -> float:
    if least > 500:
        found = next((step for step in _LONG_TICKS if step >= least), None)
        return found or math.ceil(least / 300_000) * 300_000
    power = 10 ** math.floor(math.log10(max(least, 1)))
    return float(next(base * power for base in (*_TICK_BASES, 10) if base * power >= least))


def _label(at: float, step: float) -> str:
    if at == 0:
        return "0"
    if step >= 60_000:
        return f"{at / 60_000:g} min"
    return f"{at / 1000:g} s" if step >= 1000 or at >= 1000 else f"{at:g} ms"
