"""`python -m tests.schedules --schedules N`: run them, and exit with 1 where anything is wrong."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

from paidup.db.connection import migrate
from tests.bench.report import console
from tests.schedules.run import run_part

PART = 250
"""How many schedules a process runs until it says what it has found."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schedules", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    began, done, faults = time.monotonic(), 0, 0
    end = options.seed + options.schedules
    parts = [range(first, min(end, first + PART)) for first in range(options.seed, end, PART)]
    with TemporaryDirectory() as folder:
        template = Path(folder) / "template.db"
        asyncio.run(migrate(f"sqlite://{template}"))
        with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
            for work in as_completed([pool.submit(run_part, part, template) for part in parts]):
                part, wrong = work.result()
                done, faults = done + len(part), faults + len(wrong)
                for each in wrong:
                    console.print(each, markup=False, soft_wrap=True)
                took_s = round(time.monotonic() - began)
                console.print(f"{done} schedules in {took_s} s: {faults} faults", highlight=False)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
