"""Flame graphs of what the benchmarks measure: where a process spends its CPU time, as a small SVG.

`FLAMES=FOLDER python -m tests.bench.webhooks` keeps one for each `paidup serve` that the benchmark starts,
in `FOLDER/serve-PORT.svg`. `python -m tests.bench.flames FILE.svg MODULE [ARGUMENT ...]` runs any module so;
within a process, `sampled` does. Samples are taken of the process's CPU time, every few milliseconds, and
of nothing while it waits or imports. What the kernel or a library in C does counts for the Python function
that called it.
"""

from __future__ import annotations

import itertools
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from xml.sax.saxutils import escape

EVERY_S = 0.002
WIDTH, ROW, TOP = 1180, 17, 40
LEAST = 0.01
"""The share of all samples below which a function is not drawn."""
IMPORTS = "importlib._bootstrap"
COLOURS = {"paidup": "#93c5fd", "tests": "#d1d5db"}
LIBRARY = "#fcd34d"

Stack = tuple[str, ...]


@dataclass
class Call:
    """A function at one place in the graph, with the samples in it and in what it calls."""

    samples: int = 0
    calls: dict[str, Call] = field(default_factory=dict)


@contextmanager
def sampled(picture: Path) -> Iterator[None]:
    """Draw `picture` of the CPU time that this process spends within the block. In the main thread only."""
    stacks: Counter[Stack] = Counter()

    def take(_number: int, frame: FrameType | None) -> None:
        stack = _stack(frame)
        if not any(name.startswith(IMPORTS) for name in stack):
            stacks[stack] += 1

    before = signal.signal(signal.SIGPROF, take)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(draw(stacks, picture.stem))


def _stack(frame: FrameType | None) -> Stack:
    names: list[str] = []
    while frame is not None:
        module = str(frame.f_globals.get("__name__", "?"))
        if module != __name__ and module not in ("runpy", "contextlib"):
            names.append(f"{module}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return tuple(reversed(names))


def draw(stacks: Counter[Stack], title: str) -> str:
    """An SVG: callers above, what they call below, as wide as its share of all samples."""
    root = Call()
    shared = sum(1 for _ in itertools.takewhile(lambda names: len({*names}) == 1, zip(*stacks, strict=False)))
    for stack, count in stacks.items():
        call = root
        call.samples += count
        for name in stack[shared:]:
            call = call.calls.setdefault(name, Call())
            call.samples += count
    rows: list[str] = []
    _rows(root, root.samples, 0.0, 0, rows)
    height = TOP + ROW * (_depth(root) + 1)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif" font-size="11" fill="#1f2937">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="8" y="24" font-size="15" font-weight="600">{escape(title)}: '
            f"{root.samples} samples of CPU time</text>",
            *rows,
            "</svg>",
            "",
        ]
    )


def _depth(call: Call, share_of: int = 0) -> int:
    """How many rows are drawn."""
    whole = share_of or call.samples
    drawn = [inner for inner in call.calls.values() if inner.samples / whole >= LEAST]
    return max((1 + _depth(inner, whole) for inner in drawn), default=0)


def _rows(call: Call, all_samples: int, left: float, level: int, rows: list[str]) -> None:
    for name, inner in sorted(call.calls.items(), key=lambda item: -item[1].samples):
        share = inner.samples / all_samples
        if share < LEAST:
            continue
        width, y = share * WIDTH, TOP + level * ROW
        fits = int(width / 6.2) - 6
        label = name if len(name) <= fits else name.rpartition(".")[2][:fits] if fits > 3 else ""
        rows.append(
            f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" '
            f'fill="{COLOURS.get(name.partition(".")[0], LIBRARY)}"/>'
        )
        if label:
            rows.append(f'<text x="{left + 3:.1f}" y="{y + 12}">{escape(label)} {share:.0%}</text>')
        _rows(inner, all_samples, left, level + 1, rows)
        left += width


if __name__ == "__main__":
    picture, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    with sampled(picture):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
