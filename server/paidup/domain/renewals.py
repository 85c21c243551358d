"""Decides until when a period's unused credits can be used while its renewal is under way.

Stripe keeps a renewal's invoice a draft for about an hour, up to 72 hours where `invoice.created` was not
acknowledged, and retries a failed collection for days or weeks
(https://docs.stripe.com/billing/invoices/subscription). A customer whose plan is in good standing keeps what
they have until the renewal has succeeded or failed for good. docs/credits.md has the rule.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from paidup.domain.catalog import Plan, Rollover

RETRIES_LAST_AT_MOST = timedelta(days=60)
"""Stripe's longest retry policy is two months:
https://docs.stripe.com/billing/revenue-recovery/smart-retries."""
DEBITS_LAST_AT_MOST = timedelta(days=21)
"""Fourteen business days, for a SEPA Direct Debit: https://docs.stripe.com/payments/sepa-debit."""
DRAFT_FOR = timedelta(hours=1)
"""How long a renewal's invoice is a draft, where Stripe has not said otherwise."""
NOT_RENEWING = frozenset({"canceled", "incomplete_expired", "unpaid", "paused"})
"""Statuses of a subscription in which Stripe collects no renewal."""


class RenewalFacts(msgspec.Struct, frozen=True):
    """What is known of a subscription's renewals.

    `paid_until`: the end of the latest period that was paid. `failed_until`: the end of the latest period
    whose invoice is void or uncollectible. `processing`: a bank debit for it is under way.
    """

    status: str
    cancel_at: datetime | None = None
    paid_until: datetime | None = None
    failed_until: datetime | None = None
    processing: bool = False


def grace_of(plan: Plan | None) -> timedelta:
    """How long a plan's unused credits outlast their period while its renewal is awaited."""
    if plan is None or plan.rollover is Rollover.KEEP:
        return timedelta()
    return timedelta(hours=plan.renewal_grace_hours)


def usable_until(period_end: datetime, plan: Plan | None, known: RenewalFacts) -> datetime | None:
    """Until when credits whose period ends at `period_end` can be used. None: only until then."""
    grace = grace_of(plan)
    if plan is not None and plan.grace_while_retrying and known.status == "past_due":
        grace = max(grace, RETRIES_LAST_AT_MOST)
    if grace and known.processing:
        grace = max(grace, DEBITS_LAST_AT_MOST)
    decided = (known.paid_until, known.failed_until)
    if not grace or known.status in NOT_RENEWING or any(end and end > period_end for end in decided):
        return None
    if known.cancel_at and known.cancel_at <= period_end:
        return None  # known not to renew
    return period_end + grace
