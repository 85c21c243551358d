"""Checkout Sessions that are complete and belong to nobody yet, and the events that wait for their owner.

An event of such a payment is no fault, so it alarms nobody. It is kept, and handled once somebody has
claimed the session (see `claims.py`).
"""

from __future__ import annotations

from datetime import datetime

from tortoise.expressions import Q
from tortoise.queryset import QuerySet

from paidup.db.models import CheckoutSession, StripeEvent
from paidup.domain.payment_facts import InvoiceFacts
from paidup.payments.outcomes import EventOutcome
from paidup.stripe_api.checkout_schemas import COMPLETE, PAID

PARKED_UNCLAIMED = f"parked: {EventOutcome.UNCLAIMED}"
"""The `error` of an event that waits for a claim."""
_WAITING = (PARKED_UNCLAIMED, f"parked: {EventOutcome.UNKNOWN_CUSTOMER}")
_REVERSALS = Q(type__startswith="refund.") | Q(type__startswith="charge.dispute.")


def unclaimed_sessions() -> QuerySet[CheckoutSession]:
    """Those that are complete and belong to nobody, whether their money has come or takes days."""
    return CheckoutSession.filter(account_id__isnull=True, status=COMPLETE)


def unclaimed_payments() -> QuerySet[CheckoutSession]:
    """Those of them that are paid, and about which nothing was done yet."""
    return unclaimed_sessions().filter(payment_status__in=list(PAID), resolution__isnull=True)


async def is_unclaimed(invoice: InvoiceFacts) -> bool:
    """Whether it is the invoice, or a renewal, of a session that belongs to nobody yet."""
    same = Q(id=invoice.checkout or invoice.id)
    if invoice.subscription:
        same |= Q(subscription=invoice.subscription)
    if invoice.intent:
        same |= Q(payment_intent=invoice.intent)
    if invoice.customer and invoice.account is None:
        same |= Q(customer=invoice.customer)
    return await unclaimed_sessions().filter(same).exists()


async def wake_events(row: CheckoutSession, at: datetime) -> None:
    """Make the events due that wait for the owner of this session. Needs a transaction.

    A refund names neither customer nor subscription, so each one that waits is looked at again.
    """
    ids = (row.id, row.customer, row.subscription, row.payment_intent)
    about = _REVERSALS
    for named in ids:
        if named:
            about |= Q(payload__contains=f'"{named}"')
    waiting = StripeEvent.filter(about, handled_at__isnull=True, error__in=list(_WAITING))
    await waiting.update(next_attempt_at=at)
