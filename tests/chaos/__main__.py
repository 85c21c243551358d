"""`python -m tests.chaos`: strike, audit, print the figures; 1 where anything is wrong."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import signal
import sys
import time
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from paidup.runtime.logs import configure_logging
from tests.chaos.run import Plan, Report, run
from tests.chaos.stack import open_stack

console = Console(width=120)
SHOWN = 20


def main() -> int:
    options = _options()
    configure_logging("ERROR", "console")
    kinds = ["sqlite", "postgres"] if options.database == "both" else [options.database]
    plan = Plan(options.purchases, options.seconds, options.seed, options.kill_every, options.quiet)
    return max([_one(kind, plan, options.logs) for kind in kinds])


def _one(kind: str, plan: Plan, logs: bool) -> int:
    began = time.monotonic()
    with open_stack(kind) as stack:
        sound = False
        try:
            report = asyncio.run(_interruptible(stack, plan))
            sound = not report.violations
        finally:
            if logs and not sound:
                for path in sorted(stack.folder.glob("*.log")):
                    console.rule(path.name)
                    console.print(path.read_text(errors="replace")[-20_000:], markup=False)
    _print(kind, plan, report, time.monotonic() - began)
    return 1 if report.violations else 0


async def _interruptible(stack: object, plan: Plan) -> Report:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(stack, plan)  # type: ignore[arg-type]


def _print(kind: str, plan: Plan, report: Report, took_s: float) -> None:
    title = (
        f"{kind}: {plan.purchases} customers in {plan.seconds:g} s, seed {plan.seed} ({took_s:.0f} s in all)"
    )
    table = Table(title=title, show_header=False)
    for name, value in report.figures:
        table.add_row(name, value)
    console.print(table)
    for violation in report.violations[:SHOWN]:
        console.print(f"VIOLATION {violation}", markup=False)
    if report.violations:
        console.print(
            f"{len(report.violations)} violations; again with: python -m tests.chaos --database {kind} "
            f"--purchases {plan.purchases} --seconds {plan.seconds:g} --seed {plan.seed}",
            markup=False,
        )
    else:
        console.print("Every paid invoice credited once, every balance right, every watcher told.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--purchases", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=80, help="of striking")
    parser.add_argument("--quiet", type=float, default=150, help="seconds for the three sources, afterwards")
    parser.add_argument("--kill-every", type=float, default=2.0, help="seconds on average")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument(
        "--logs", action="store_true", help="print the processes' logs where anything is wrong"
    )
    options = parser.parse_args()
    with suppress(AttributeError):
        console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    return options


if __name__ == "__main__":
    sys.exit(main())
