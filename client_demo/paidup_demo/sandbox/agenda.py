"""Things to be done later: named jobs with a due time, which survive a restart with the store.

Owns the timers. What a job does is given to it by name at construction, so that payments can tell billing
"settle this invoice, after the lag" without either importing the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from paidup_demo.sandbox.state import Store, new_id

JobName = Literal[
    "deliver",
    "finish_processing",
    "settle_invoice",
    "note_failed_payment",
    "note_required_action",
    "finish_setup",
    "invoice_paid",
    "invoice_unpaid",
    "invoice_voided",
]


class Agenda:
    """Runs `jobs[name](target)` when due. Jobs are synchronous and quick."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.jobs: dict[JobName, Callable[[str], None]] = {}

    def after(self, delay_ms: float, name: JobName, target: str) -> None:
        """Runs the job at once where there is nothing to wait for, else when the delay is over."""
        if delay_ms <= 0:
            self.jobs[name](target)
            return
        row = {"id": new_id("job"), "name": name, "target": target, "due": time.time() + delay_ms / 1000}
        self._arm(self._store.add(row, "job")["id"], delay_ms / 1000)

    def waiting(self, name: JobName) -> set[str]:
        """The targets of the jobs of this name that are not due yet."""
        return {row["target"] for row in self._store.table("job").values() if row["name"] == name}

    def hasten(self, name: JobName) -> int:
        """Runs every waiting job of this name now; returns how many."""
        ids = [row["id"] for row in self._store.table("job").values() if row["name"] == name]
        for job_id in ids:
            self._run(job_id)
        return len(ids)

    def start(self) -> None:
        """Arms the timers of the jobs that a former run left."""
        for row in list(self._store.table("job").values()):
            self._arm(row["id"], max(0.0, row["due"] - time.time()))

    def stop(self) -> None:
        """Disarms; the jobs stay in the store."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _arm(self, job_id: str, delay_s: float) -> None:
        self._timers[job_id] = asyncio.get_running_loop().call_later(delay_s, self._run, job_id)

    def _run(self, job_id: str) -> None:
        timer = self._timers.pop(job_id, None)
        if timer is not None:
            timer.cancel()
        row = self._store.table("job").pop(job_id, None)
        if row is not None:
            self._store.touch()
            self.jobs[row["name"]](row["target"])
