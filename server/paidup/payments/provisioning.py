"""Provisioning: browsers are told `active` once the SaaS's endpoints have answered, or after a deadline.

For plans with `provisioning = true`, while an endpoint gets `credits.granted`. The credits are there from the
settlement on, and can be spent. Only what browsers are told waits: a row with `provisioning_until` ahead is
shown as `provisioning`, with the version before its own. So all processes agree, and none has to write for
the deadline to pass; what is left is to publish, which the reconciler does where this process could not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from paidup.db.bulk import execute
from paidup.db.connection import storage_errors
from paidup.db.models import Invoice
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.catalog import Catalogue
from paidup.domain.decisions import Decision, Verdict
from paidup.domain.messages import StatusMessage
from paidup.realtime.status_queries import read_statuses
from paidup.runtime.batching import BackgroundBatcher
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics

log = structlog.get_logger(__name__)

MAX_TIMERS = 10_000
"""Invoices of this process whose deadline is awaited here. The reconciler publishes any other."""
AFTER_S = 0.02
"""How long after the deadline it is published: the clock of a database's rows has no finer grain."""
BY_ANSWER, BY_DEADLINE = "answer", "deadline"
# Each endpoint that wants it has had its answer, or was given up on.
_ANSWERED = """
UPDATE invoices SET provisioning_until = NULL WHERE id = $1 AND provisioning_until IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM outbound_events e JOIN event_deliveries d ON d.event_id = e.id
    WHERE e.invoice = invoices.id AND e.type = 'credits.granted' AND d.state = 'pending')"""


class Provisioning:
    """`publish` tells the browsers of a status, and records that it did."""

    def __init__(
        self, catalogue: Catalogue, publish: Callable[[StatusMessage], Awaitable[None]], metrics: Metrics
    ) -> None:
        self._deadlines_s = {
            plan.id: plan.provisioning_deadline_s for plan in catalogue.plans if plan.provisioning
        }
        self._publish = publish
        self._ended = metrics.provisioning_ended
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._over = BackgroundBatcher(self._publish_over)
        self.is_awaited: Callable[[], bool] = lambda: False
        """Whether an endpoint gets `credits.granted`: else nobody would answer."""

    def begin(self, row: Invoice, decision: Decision, writes: UnitOfWork) -> None:
        """Where `row` is credited, in the caller's transaction: hold back what browsers are told of it."""
        deadline_s = self._deadlines_s.get(row.plan or "")
        if decision.verdict is not Verdict.GRANT or deadline_s is None or not self.is_awaited():
            return
        row.version += 1  # the version before it is that of `provisioning`
        row.provisioning_until = row.publish_due_at = row.changed_at + timedelta(seconds=deadline_s)
        writes.update(row, "version", "provisioning_until", "publish_due_at")

    def watch(self, status: StatusMessage) -> None:
        """After the commit: publish it as active when its deadline has passed. Never waits, never raises."""
        invoice = status.invoice
        if invoice in self._timers or len(self._timers) >= MAX_TIMERS:
            return
        delay_s = self._deadlines_s.get(status.plan or "", 0.0) + AFTER_S
        self._timers[invoice] = asyncio.get_running_loop().call_later(delay_s, self._end, invoice)

    async def answered(self, invoice: str) -> None:
        """An endpoint has taken the `credits.granted` of this invoice. Raises StorageUnavailable."""
        if not self._deadlines_s:
            return
        with storage_errors():
            if not await execute(_ANSWERED, invoice):
                return
            statuses = await read_statuses([invoice])
        self._ended.labels(BY_ANSWER).inc()
        if timer := self._timers.pop(invoice, None):
            timer.cancel()
        for status in statuses:
            await self._publish(status)

    def close(self) -> None:
        """Wait for no deadline any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _end(self, invoice: str) -> None:
        del self._timers[invoice]
        self._over.add(invoice)

    async def end_over(self, invoices: Sequence[str]) -> None:
        """Of these, end those whose deadline has passed: each is counted once, by whichever process does it.

        Raises StorageUnavailable.
        """
        if not self._deadlines_s:
            return
        over = Invoice.filter(id__in=list(invoices), provisioning_until__lte=now())
        with storage_errors():
            self._ended.labels(BY_DEADLINE).inc(await over.update(provisioning_until=None))

    async def _publish_over(self, invoices: Sequence[str]) -> None:
        """Publish those that no other process has published meanwhile."""
        await self.end_over(invoices)
        with storage_errors():
            unpublished = Invoice.filter(id__in=list(invoices), publish_due_at__isnull=False)
            statuses = await read_statuses([row.id for row in await unpublished.only("id")])
        for status in statuses:
            await self._publish(status)
