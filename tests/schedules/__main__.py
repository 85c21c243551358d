"""`python -m tests.schedules --schedules N`: run them, and exit with 1 where anything is wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from paidup.runtime.logs import configure_logging
from tests.bench.report import console
from tests.schedules.run import run_schedules


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schedules", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    options = parser.parse_args(arguments)
    configure_logging("CRITICAL", "console")
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        wrong = asyncio.run(run_schedules(options.schedules, options.seed, Path(folder)))
    for each in wrong:
        console.print(each, markup=False)
    took_s = round(time.monotonic() - began)
    console.print(f"{options.schedules} schedules in {took_s} s: {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
