"""Scheduled jobs: named, with a due time; they survive a restart with the store.

The functions behind the names are passed in, so that payments can schedule "settle this invoice" after a
delay without importing billing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from paidup_demo.sandbox.state import Store, new_id

JobName = Literal[
    "deliver",
    "begin_debit",
    "decide_voucher",
    "finish_processing",
    "note_processing",
    "settle_invoice",
    "note_failed_payment",
    "note_required_action",
    "finish_setup",
    "invoice_paid",
    "invoice_unpaid",
    "invoice_voided",
    "checkout_paid",
    "checkout_processing",
    "checkout_refused",
]


class Agenda:
    """Runs `jobs[name](target)` when it is due. Jobs are synchronous and short."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.jobs: dict[JobName, Callable[[str], None]] = {}

    def after(self, delay_ms: float, name: JobName, target: str) -> None:
        """Run the job after the delay, or immediately if there is none."""
        if delay_ms <= 0:
            self.jobs[name](target)
            return
        row = {"id": new_id("job"), "name": name, "target": target, "due": time.time() + delay_ms / 1000}
        self._arm(self._store.add(row, "job")["id"], delay_ms / 1000)

    def waiting(self, name: JobName) -> set[str]:
        """The targets of the pending jobs of this name."""
        return {row["target"] for row in self._store.table("job").values() if row["name"] == name}

    def run_all(self, name: JobName) -> int:
        """Run every pending job of this name now; returns how many."""
        ids = [row["id"] for row in self._store.table("job").values() if row["name"] == name]
        for job_id in ids:
            self._run(job_id)
        return len(ids)

    def start(self) -> None:
        """Start the timers of jobs left by an earlier run."""
        for row in list(self._store.table("job").values()):
            self._arm(row["id"], max(0.0, row["due"] - time.time()))

    def stop(self) -> None:
        """Stop the timers; the jobs stay in the store."""
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
