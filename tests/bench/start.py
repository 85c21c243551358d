"""How soon `paidup --help`, `paidup serve` and the demo answer: `python -m tests.bench.start`.

From the start of the process until it has printed, or until `/readyz` (the demo: its page) answers 200. The
database is SQLite, migrated before (the demo's is new), the embedded Valkey is started, and Stripe is the
sandbox, already running (the demo starts its own). Printed are medians and the fastest, and the CPU time of
the process itself. The floor is Python that runs nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
from tests.support.paidup import environment
from tests.support.processes import ROOT, Child, free_port

console = Console(width=100)
WITHIN_S = 60.0


class Start(msgspec.Struct):
    wall_s: float
    cpu_s: float


def _started(arguments: list[str], env: dict[str, str], log: Path, url: str | None) -> Start:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**inherited, "PYTHONPATH": str(ROOT), **env},
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if url is None:
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, log.read_text()
        return Start(time.perf_counter() - began, used.ru_utime + used.ru_stime)
    try:
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.perf_counter() - began < WITHIN_S, log.read_text()
            time.sleep(0.005)
        wall_s = time.perf_counter() - began
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return Start(wall_s, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _kinds(folder: Path, stripe: str) -> dict[str, Callable[[], Start]]:
    def serve() -> Start:
        port, log = free_port(), folder / "serve.log"
        env = environment(
            database_url=f"sqlite://{folder / 'paidup.db'}",
            stripe_api_base=stripe,
            data_dir=folder,
            port=port,
        )
        return _started(["-m", "paidup", "serve", "--migrate"], env, log, f"http://127.0.0.1:{port}/readyz")

    def demo() -> Start:
        home = Path(tempfile.mkdtemp(prefix="pu-", dir=folder))
        ports = {name: str(free_port()) for name in ("PORT", "SANDBOX_PORT")}
        url = f"http://127.0.0.1:{ports['PORT']}/"
        return _started(["-m", "paidup", "demo"], ports, home / "demo.log", url)

    return {
        "floor: python -c pass": lambda: _started(["-c", "pass"], {}, folder / "pass.log", None),
        "paidup --help": lambda: _started(["-m", "paidup", "--help"], {}, folder / "help.log", None),
        "paidup serve": serve,
        "paidup demo": demo,
    }


def main() -> None:
    parser = arguments("start", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    port = free_port()
    sandbox = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(port)}, folder / "sandbox.log")
    try:
        sandbox.wait_for(f"http://127.0.0.1:{port}/sandbox/health")
        kinds = _kinds(folder, f"http://127.0.0.1:{port}")
        figure = Figure("Starts")
        for turn in range(options.rounds + 1):
            for name, start in kinds.items():
                started = start()
                if turn:  # the first warms
                    figure.add(name, s=started.wall_s, cpu_s=started.cpu_s)
    finally:
        sandbox.stop()
        shutil.rmtree(folder, ignore_errors=True)
    table = Table()
    for column in ("start", "s, median", "fastest", "CPU, s, median", "least"):
        table.add_column(column, justify="left" if column == "start" else "right")
    for name, row in figure.rounds.items():
        cells = (row[what] for what in ("s", "cpu_s"))
        table.add_row(
            name, *(f"{each:.2f}" for cell in cells for each in (statistics.median(cell), min(cell)))
        )
    console.print(table)
    finish(options, "start", {"start": figure})


if __name__ == "__main__":
    main()
