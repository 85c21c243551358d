"""Whether webhooks are known to arrive, so that the scans of Stripe's lists need only confirm it.

They are doubted for an hour after a payment of which no webhook was received within a minute, and
after an event that Stripe could not deliver was found in its list. Both are read from the tables.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from paidup.db.connection import connection, is_sqlite, storage_errors
from paidup.db.models import EventSource, StripeEvent
from paidup.domain.payment_facts import Source
from paidup.payments.timeline import TimelineEventType

GRACE = timedelta(minutes=1)
"""How late the webhook of a payment may be, which another source has settled."""
DOUBTED_FOR = timedelta(hours=1)

# ruff: noqa: S608 - made of constants, never of a value
_WITHOUT_WEBHOOK = f"""
SELECT i.id FROM invoices i
WHERE i.settled_at > $1 AND i.settled_at <= $2
  AND i.settled_via IN ('{Source.VERIFICATION.value}', '{Source.RECONCILIATION.value}')
  AND NOT EXISTS (SELECT 1 FROM timeline t
                  WHERE t.invoice = i.id AND t.event_type = '{TimelineEventType.WEBHOOK_RECEIVED.value}')
LIMIT 1"""


async def webhooks_are_doubted(at: datetime) -> bool:
    """Whether a delivery failed, or a payment had no webhook, within the last hour.

    Raises StorageUnavailable.
    """
    since = at - DOUBTED_FOR
    with storage_errors():
        if await StripeEvent.filter(source=EventSource.LIST, received_at__gt=since).exists():
            return True
        query = _WITHOUT_WEBHOOK.replace("$", "?") if is_sqlite() else _WITHOUT_WEBHOOK
        found, _ = await connection().execute_query(query, [since, at - GRACE])
    return bool(found)
