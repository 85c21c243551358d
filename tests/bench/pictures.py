"""Pictures of what `tests.bench.sockets` measured: `python -m tests.bench.pictures FIGURES.json FOLDER`.

Each is a cumulative distribution: how many of all (upwards) took at most so long (to the right). Plain
SVG on a light ground of its own, so that it reads the same on any page.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 52
LEGEND = 22
COLOURS = ("#1d4ed8", "#b45309", "#6b7280", "#047857")
"""The first is Paidup's own. With the dashes, told apart without seeing colours."""
OURS = ("Paidup", "a waiting socket", "commit to socket")
DASHES = ("", "7 4", "2 3", "10 3 2 3")
SHARES = (*(n / 200 for n in range(200)), 0.995, 0.999, 1.0)
PICTURES: Mapping[str, tuple[str, str, bool]] = {
    "latency": ("sockets-latency.svg", "From publishing to receiving, ms", True),
    "connects": ("sockets-connects.svg", "From the first connect to a socket's snapshot, s", False),
    "cpu": ("sockets-polling.svg", "From a change to knowing it, ms", True),
    "load": ("sockets-load.svg", "Under load, ms", True),
}
"""By figure: the file, what the axis shows, and whether it is logarithmic."""

Series = Sequence[tuple[str, Sequence[float]]]


def draw(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """The pictures of these figures (as `Figure.as_json` gives them)."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (file, axis, logarithmic) in PICTURES.items():
        samples = figures[name]["samples"] if name in figures else {}
        if samples:
            ours_first = sorted(samples, key=lambda who: who not in OURS)
            series = [(who, sorted(samples[who])) for who in ours_first]
            (folder / file).write_text(_cumulative(figures[name]["title"], axis, series, logarithmic))
            drawn.append(folder / file)
    return drawn


def _cumulative(title: str, axis: str, series: Series, logarithmic: bool) -> str:
    height = HEIGHT + LEGEND * len(series)
    plot_right, plot_bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    ticks = _powers(series) if logarithmic else _round_steps(max(values[-1] for _, values in series))
    low, high = (math.log10(ticks[0]), math.log10(ticks[-1])) if logarithmic else (0.0, ticks[-1])

    def x(value: float) -> float:
        place = math.log10(max(value, ticks[0])) if logarithmic else value
        return LEFT + (place - low) / (high - low) * (plot_right - LEFT)

    def y(share: float) -> float:
        return plot_bottom - share * (plot_bottom - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13" fill="#1f2937">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<text x="{LEFT - 40}" y="30" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for tick in ticks:
        parts.append(_line(x(tick), TOP, x(tick), plot_bottom, "#e5e7eb"))
        parts.append(_text(x(tick), plot_bottom + 18, f"{tick:g}", "middle"))
    for share in (0.0, 0.25, 0.5, 0.75, 0.99):
        parts.append(_line(LEFT, y(share), plot_right, y(share), "#d1d5db" if share else "#6b7280"))
        parts.append(_text(LEFT - 8, y(share) + 4, f"{share:.0%}", "end"))
    parts.append(_text((LEFT + plot_right) / 2, plot_bottom + 40, axis, "middle"))
    for number, (who, values) in enumerate(series):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        points = " ".join(f"{x(_at(values, share)):.1f},{y(share):.1f}" for share in SHARES)
        style = f'fill="none" stroke="{colour}" stroke-width="2.2" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{points}" {style}/>')
        below = HEIGHT + LEGEND * number + 4
        parts.append(f'<line x1="{LEFT}" y1="{below}" x2="{LEFT + 40}" y2="{below}" {style}/>')
        figures = f"p50 {_figure(_at(values, 0.5))}, p99 {_figure(_at(values, 0.99))}"
        parts.append(_text(LEFT + 52, below + 5, f"{who}: {figures}", "start"))
    return "\n".join([*parts, "</svg>", ""])


def _at(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def _powers(series: Series) -> list[float]:
    """Ticks of 1, 2 and 5 times the powers of ten, around all values but the outermost thousandths."""
    least = max(0.001, min(_at(values, 0.001) for _, values in series))
    most = max(_at(values, 0.999) for _, values in series)
    all_ticks = [base * 10.0**power for power in range(-3, 7) for base in (1, 2, 5)]
    first = max((tick for tick in all_ticks if tick <= least), default=all_ticks[0])
    last = min((tick for tick in all_ticks if tick >= most and tick > first), default=all_ticks[-1])
    return [tick for tick in all_ticks if first <= tick <= last]


def _round_steps(most: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(base * power for base in (1, 2, 5, 10) if most / (base * power) <= 8)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


if __name__ == "__main__":
    for path in draw(json.loads(Path(sys.argv[1]).read_text())["figures"], Path(sys.argv[2])):
        print(path)
