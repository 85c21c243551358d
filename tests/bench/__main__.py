"""All benchmarks, each in a process of its own, and one table of the goals: `python -m tests.bench`.

`make bench` is the same. `--only` selects benchmarks, `--quick` measures each with few rounds: enough to see
that it runs, too few for figures. `--json` keeps all results in a file, and `--read` prints the table of such
a file without measuring. Exits with 1 if a benchmark failed or kept no results, or if a goal that was
measured has none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import goals

BENCHMARKS = {
    "activation": ("", "--rounds 2"),
    "activation_server": ("", "--rounds 4"),
    "sockets": (
        "",
        "--rounds 1 --seconds 1 --idle 2 --connections 500 --load 500 --activations 20 --load-seconds 3",
    ),
    "webhooks": ("", "--rounds 1 --webhooks 100"),
    "spends": ("", "--rounds 1 --spends 200"),
    "outbound": ("", "--events 100"),
    "burst": ("", ""),
    "reads": ("", "--no-days"),
    "entitlements": ("", "--rounds 1 --answers 64"),
    "verifications": ("", "--rounds 1 --invoices 50"),
    "returns": ("", "--healthy 50 --dead 50"),
    "networks": ("", "--rounds 1"),
    "tables": ("--events 200000", "--events 2000"),
    "growth": ("--sizes 1000 100000", "--sizes 100 1000 --rounds 3"),
    "accounts": ("", "--rounds 3"),
    "processes": ("", "--processes 1 2 --seconds 1"),
    "start": ("", "--rounds 1"),
}
"""Each with its arguments, and those of `--quick`. `burst` draws the picture of its document in any case."""


def main() -> None:
    options = _options()
    kept = goals.read_file(options.read) if options.read else {}
    failed = [] if options.read else _run(options.only, options.quick, kept)
    if options.json:
        options.json.write_text(json.dumps(kept))
    missing = goals.show(goals.read(kept))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    if without := [goal.what for goal in missing if goal.benchmark in kept]:
        raise SystemExit(f"measured, but without a result: {', '.join(without)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(BENCHMARKS)
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, help=",".join(names))
    parser.add_argument("--quick", action="store_true", help="few rounds of each")
    parser.add_argument("--json", type=Path, help="file for the results of all")
    parser.add_argument("--read", type=Path, help="print the table of this file, and measure nothing")
    options = parser.parse_args()
    if unknown := set(options.only) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def _run(names: list[str], quick: bool, kept: dict[str, Any]) -> list[str]:
    """Run them one after the other. Returns those that failed; `kept` gets the results."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="pu-") as folder:
        for name in names:
            file = Path(folder) / f"{name}.json"
            arguments = BENCHMARKS[name][quick].split()
            if goals.goals_of(name):
                arguments += ["--json", str(file)]
            print(f"\n# python -m tests.bench.{name} {' '.join(BENCHMARKS[name][quick].split())}", flush=True)
            ended = subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *arguments], check=False)
            if file.exists():
                kept[name] = goals.read_file(file)
            if ended.returncode or (goals.goals_of(name) and name not in kept):
                failed.append(name)
    return failed


if __name__ == "__main__":
    main()
