"""Runs the sweeps that find and settle what verification and webhooks left open.

Each sweep is bounded, runs at its own interval, and goes on where it stopped. Any number of
reconcilers may run. A round costs as much as is due, not as much as exists: every sweep reads an
index of due times, or a watermark. Credits are granted by the settlement alone, and the audit
reports differences without repairing them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from paidup.reconciliation.due_rows import BATCH, DueRows
from paidup.reconciliation.due_sessions import DueSessions
from paidup.reconciliation.failures import FAILURES
from paidup.reconciliation.list_sweeps import ListSweeps
from paidup.reconciliation.maintenance import Maintenance
from paidup.reconciliation.second_payments import SecondPayments
from paidup.runtime.metrics import Metrics

log = structlog.get_logger(__name__)


class Reconciler:
    def __init__(
        self,
        due: DueRows,
        sessions: DueSessions,
        lists: ListSweeps,
        maintenance: Maintenance,
        metrics: Metrics,
    ) -> None:
        self.due = due
        self.sessions = sessions
        self.lists = lists
        self.maintenance = maintenance
        self._metrics = metrics
        self._sweeps: dict[str, tuple[Callable[[], Awaitable[int]], float]] = {
            "unhandled_events": (due.events, 0),
            "due_invoices": (due.invoices, 0),
            "due_sessions": (sessions.sweep, 0),
            "named_sessions": (sessions.adopt_named, 10),
            "second_payments": (SecondPayments().sweep, 10),
            "unpublished_versions": (due.versions, 0),
            "due_installments": (due.installments, 0),
            "due_subscriptions": (due.subscriptions, 0),
            "expired_reservations": (due.reservations, 0),
            "ended_grants": (due.grants, 0),
            "prune": (maintenance.prune, 0),
            "undelivered_events": (lists.undelivered_events, 10),
            "paid_invoices": (lists.paid_invoices, 10),
            "completed_sessions": (lists.completed_sessions, 10),
            "reversals": (lists.reversals, 10),
            "leftover_drafts": (lists.leftover_drafts, 60),
            "audit": (maintenance.audit, 10),
            "alarms": (maintenance.alarms, 30),
        }

    async def run_forever(self, interval_s: float) -> None:
        """Sweep every `interval_s` seconds, or again at once while there is much to do. Until cancelled.

        Sweeps run independently: one that waits for Stripe does not delay those that need no Stripe.
        """
        await asyncio.gather(*(self._keep_sweeping(name, interval_s) for name in self._sweeps))

    async def sweep(self) -> dict[str, int]:
        """One round of every sweep, side by side. How many things each one handled."""
        counts = await asyncio.gather(*(self._sweep(name) for name in self._sweeps))
        return dict(zip(self._sweeps, counts, strict=True))

    async def _keep_sweeping(self, name: str, interval_s: float) -> None:
        _, every_s = self._sweeps[name]
        while True:
            done = await self._sweep(name)
            if every_s or done < BATCH:  # a sweep with its own interval keeps to it
                await asyncio.sleep(max(every_s, interval_s))

    async def _sweep(self, name: str) -> int:
        """One round of one sweep. An outage ends this round and no other."""
        sweep, _ = self._sweeps[name]
        began = time.perf_counter()
        try:
            return await sweep()
        except FAILURES as error:
            log.warning("sweep_interrupted", sweep=name, error=f"{type(error).__name__}: {error}")
        except Exception:
            # A bug in one sweep must not stop the others.
            log.exception("sweep_failed", sweep=name)
        finally:
            self._metrics.sweep_seconds.labels(name).observe(time.perf_counter() - began)
        return 0
