"""The CPU time of a command's imports, as a flame graph: `python -m tests.bench.imports FILE.svg [COMMAND]`.

Modules above, what they import below. A package's modules are one, where they import each other. A sample
is a hundredth of a millisecond of the process's CPU time.
"""

from __future__ import annotations

import importlib._bootstrap as _bootstrap
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from paidup.cli import imported
from tests.bench.flames import Stack, draw

SAMPLE_S = 0.00001
bootstrap: Any = _bootstrap


class Imports:
    """In place of the function that imports modules; counts the time of each without what it imports."""

    def __init__(self) -> None:
        self.stacks: Counter[Stack] = Counter()
        self._importing: list[str] = []
        self._inner_s = [0.0]
        self._import = bootstrap._find_and_load

    def __call__(self, name: str, import_: Any) -> Any:
        self._importing.append(name if name.startswith("paidup.") else name.partition(".")[0])
        self._inner_s.append(0.0)
        began = time.process_time()
        try:
            return self._import(name, import_)
        finally:
            took_s = time.process_time() - began
            own_s = took_s - self._inner_s.pop()
            self._inner_s[-1] += took_s
            self.stacks[self._stack()] += round(own_s / SAMPLE_S)
            self._importing.pop()

    def _stack(self) -> Stack:
        pairs = zip(["", *self._importing], self._importing, strict=False)
        return tuple(name for before, name in pairs if name != before)


def main() -> None:
    picture, command = Path(sys.argv[1]), (sys.argv[2:] or ["serve"])[0]
    bootstrap._find_and_load = imports = Imports()
    imported(command)
    picture.write_text(draw(imports.stacks, f"paidup {command}, its imports"))


if __name__ == "__main__":
    main()
