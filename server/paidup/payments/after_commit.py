"""After a settlement's commit: tells browsers, counts, and writes the invoice's timeline.

Decides nothing, and changes no money: what is lost here with its process, the reconciler publishes again.
Makes no call to Stripe, and imports no hub: both ways to publish are passed in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from paidup.credits.reversals import ReversalNews
from paidup.db.models import Account
from paidup.domain.catalog import Catalogue
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import Source
from paidup.domain.stages import Stage
from paidup.payments.invoice_rows import record_published
from paidup.payments.outcomes import PUBLISHED, Outcome, Settled
from paidup.payments.provisioning import Provisioning
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.runtime import tracing
from paidup.runtime.batching import BackgroundBatcher
from paidup.runtime.metrics import Metrics
from paidup.runtime.tracing import Kind

log = structlog.get_logger(__name__)

Publish = Callable[[StatusMessage], Awaitable[bool]]
"""Sends the status to every process that has a session for the invoice; True once Redis has taken it."""
PublishBalance = Callable[[Account], Awaitable[None]]
"""Sends the account's balance to every process that has a session for the account."""

_TIMELINE_TYPES = {
    Outcome.SETTLED: TimelineEventType.SETTLED,
    Outcome.NOTIFIED: TimelineEventType.NOTIFIED,
    Outcome.REFUSED: TimelineEventType.REFUSED,
}


class AfterCommit:
    def __init__(
        self,
        catalogue: Catalogue,
        publish: Publish,
        publish_balance: PublishBalance,
        timeline: Timeline,
        metrics: Metrics,
    ) -> None:
        self._publish = publish
        self.publish_balance = publish_balance
        self._timeline = timeline
        self._metrics = metrics
        self._published = BackgroundBatcher(record_published)
        self.provisioning = Provisioning(catalogue, self.publish, metrics)

    async def report(self, settled: Settled, source: Source) -> None:
        """Count the settlement, and tell browsers."""
        self._count(settled, source)
        if settled.status and (settled.created or settled.payment_seen or settled.outcome in PUBLISHED):
            await self.publish(settled.status)
        if settled.changed_account:
            await self.publish_balance(settled.changed_account)

    async def report_reversal(
        self, news: ReversalNews, status: StatusMessage | None, changed_account: Account | None
    ) -> None:
        """Write down a reversal, and tell browsers of what it has changed."""
        self._timeline.note(
            news.invoice, TimelineEventType.REVERSED, reversal=news.id, status=news.status, reason=news.reason
        )
        if status:
            await self.publish(status)
        if changed_account:
            await self.publish_balance(changed_account)

    async def publish(self, status: StatusMessage) -> None:
        """Publish the status and record its version; what is not recorded, the reconciler publishes again."""
        if status.stage is Stage.PROVISIONING:
            self.provisioning.watch(status)
        with tracing.step("publish", Kind.PRODUCER):
            published = await self._publish(status)
        if published:
            self._timeline.note(status.invoice, TimelineEventType.PUBLISHED, version=status.version)
            self._published.add((status.invoice, status.version))
        else:
            self._timeline.note(status.invoice, TimelineEventType.NOT_PUBLISHED, version=status.version)

    def _count(self, settled: Settled, source: Source) -> None:
        self._metrics.settlements.labels(source, settled.outcome).inc()
        if settled.invoice is None:
            return
        if settled.created:
            self._timeline.note(settled.invoice, TimelineEventType.CREATED, source=source)
        if event_type := _TIMELINE_TYPES.get(settled.outcome):
            status = settled.status.status if settled.status else None
            self._timeline.note(
                settled.invoice, event_type, source=source, reason=settled.reason, status=status
            )
        if settled.outcome is Outcome.REFUSED:
            log.warning("settlement_refused", invoice=settled.invoice, source=source, reason=settled.reason)
