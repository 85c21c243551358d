"""The reconciler's housekeeping: pruning, the audit of ledgers, and alarms."""

from __future__ import annotations

from datetime import timedelta

import structlog

from paidup.credits.audit import audit_slice
from paidup.db.connection import storage_errors
from paidup.db.watermarks import claim_watermark
from paidup.reconciliation.alarms import take_snapshot
from paidup.reconciliation.policy import ReconcilerPolicy
from paidup.reconciliation.pruning import prune
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics

RUNS = "reconciler_runs"
"""A watermark that shows when a reconciler ran last."""
EVERY = timedelta(seconds=30)

log = structlog.get_logger(__name__)


class Maintenance:
    def __init__(self, metrics: Metrics, policy: ReconcilerPolicy) -> None:
        self._metrics = metrics
        self._policy = policy
        self._audited_to = 0

    async def prune(self) -> int:
        """Delete what is not needed any more: payloads of old events, and old timeline entries."""
        return await prune(self._policy.retention)

    async def audit(self) -> int:
        """Audit the ledgers of the next accounts, in turn. Differences are reported and never repaired."""
        checked = await audit_slice(self._audited_to)
        self._audited_to = checked.last or 0
        for finding in checked.findings:
            self._metrics.audit_differences.inc()
            log.error("audit_difference", subject=finding.subject, what=finding.what)
        return checked.accounts

    async def alarms(self) -> int:
        """Log the alarms that are on, and export them as metrics."""
        with storage_errors():
            at = now()
            await claim_watermark(RUNS, moved_before=at - EVERY, moved_at=at)
        snapshot = await take_snapshot(self._policy.reads_per_month, self._policy.unclaimed_after_h)
        snapshot.export(self._metrics)
        for alarm in snapshot.alarms:
            log.error("alarm", name=alarm.name, text=alarm.text)
        return len(snapshot.alarms)
