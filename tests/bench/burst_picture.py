"""The picture of a simulated burst: how long customers waited, by what told them. Plain SVG text."""

from __future__ import annotations

import math
from typing import NamedTuple

SOURCES = {"webhook": "#3b82c4", "verification": "#e39b2d", "bulk verification": "#4aa564"}
NAIVE = "#8a8f98"
FROM_S, TO_S, BINS = 0.1, 1000.0, 48
LEFT, WIDTH, HEIGHT, GAP, TOP = 20, 860, 120, 54, 64


class Panel(NamedTuple):
    """Waits in seconds by source, and those of a naive way, drawn as an outline that ends with the panel."""

    title: str
    waits: dict[str, list[float]]
    naive: dict[str, list[float]]


def draw(panels: list[Panel], count: int) -> str:
    """One panel below the other, with one logarithmic axis of time."""
    height = TOP + len(panels) * (HEIGHT + GAP) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * LEFT} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f"<title>How long {count:,} customers waited after paying within one minute</title>",
        f'<rect width="100%" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="16">How long {count:,} customers waited, all of whom paid '
        "within one minute</text>",
        _legend(),
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + 18 + index * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> str:
    x, parts = LEFT, []
    shown = {f"told by {source}": colour for source, colour in SOURCES.items()}
    for name, colour in {**shown, "each socket asks Stripe itself": NAIVE}.items():
        parts.append(f'<rect x="{x}" y="38" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="49">{name}</text>')
        x += 60 + 7 * len(name)
    return "\n".join(parts)


def _panel(panel: Panel, top: int) -> list[str]:
    by_source = {source: _bins(waits) for source, waits in panel.waits.items()}
    naive = _bins([wait for waits in panel.naive.values() for wait in waits])
    stacks = [sum(bins[index] for bins in by_source.values()) for index in range(BINS)]
    scale = HEIGHT / max(*stacks, 1)
    bottom, step = top + HEIGHT, WIDTH / BINS
    parts = [f'<text x="{LEFT}" y="{top - 4}" font-weight="600">{panel.title}</text>']
    for index in range(BINS):
        y = float(bottom)
        for source, bins in by_source.items():
            if tall := bins[index] * scale:
                y -= tall
                parts.append(
                    f'<rect x="{LEFT + index * step:.1f}" y="{y:.1f}" width="{step - 1:.1f}" '
                    f'height="{tall:.1f}" fill="{SOURCES[source]}"/>'
                )
    outline = "".join(
        f"V{bottom - min(HEIGHT, naive[index] * scale):.1f}H{LEFT + (index + 1) * step:.1f}"
        for index in range(BINS)
    )
    if max(naive) > max(stacks):  # what goes beyond the panel is said in words
        cut = next(index for index in range(BINS) if naive[index] > max(stacks))
        x = LEFT + (cut - 0.5) * step
        parts.append(f'<text x="{x:.1f}" y="{top + 10}" text-anchor="end">up to {max(naive):,}</text>')
    parts.append(f'<path d="M{LEFT} {bottom}{outline}V{bottom}" fill="none" stroke="{NAIVE}"/>')
    parts.append(f'<path d="M{LEFT} {bottom}H{LEFT + WIDTH}" stroke="#333"/>')
    for power, name in ((-1, "0.1 s"), (0, "1 s"), (1, "10 s"), (2, "100 s"), (3, "1,000 s")):
        x = LEFT + _position(10.0**power) * WIDTH
        anchor = "start" if power == -1 else "end" if power == 3 else "middle"
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="#333"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{name}</text>')
    return parts


def _bins(waits: list[float]) -> list[int]:
    bins = [0] * BINS
    for wait in waits:
        bins[min(BINS - 1, max(0, int(_position(wait) * BINS)))] += 1
    return bins


def _position(seconds: float) -> float:
    """From 0 to 1 along the axis."""
    return math.log(max(seconds, FROM_S) / FROM_S) / math.log(TO_S / FROM_S)
