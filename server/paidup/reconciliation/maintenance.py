"""The reconciler's housekeeping: pruning, the audit of ledgers, and alarms."""

from __future__ import annotations

import structlog

from paidup.credits.audit import audit_slice
from paidup.reconciliation.alarms import take_snapshot
from paidup.reconciliation.pruning import Retention, prune
from paidup.runtime.metrics import Metrics

log = structlog.get_logger(__name__)


class Maintenance:
    def __init__(self, metrics: Metrics, retention: Retention) -> None:
        self._metrics = metrics
        self._retention = retention
        self._audited_to = 0

    async def prune(self) -> int:
        """Delete what is not needed any more: payloads of old events, and old timeline entries."""
        return await prune(self._retention)

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
        snapshot = await take_snapshot()
        snapshot.export(self._metrics)
        for alarm in snapshot.alarms:
            log.error("alarm", name=alarm.name, text=alarm.text)
        return len(snapshot.alarms)
