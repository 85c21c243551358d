"""What settling a payment, or handling a Stripe event, can result in."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

import msgspec

from paidup.db.models import Account
from paidup.domain.messages import StatusMessage

PUBLISH_GRACE = timedelta(seconds=3)
"""How long the process that committed a change has to publish it, before the reconciler does."""


class Outcome(StrEnum):
    """The result of one call of `Settlement.settle`."""

    SETTLED = "settled"
    ALREADY_SETTLED = "already_settled"
    NOTIFIED = "notified"
    """The status changed and no credits did: browsers are notified."""
    NOT_YET = "not_yet"
    REFUSED = "refused"
    UNKNOWN_INVOICE = "unknown_invoice"
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNKNOWN_PRICE = "unknown_price"
    UNKNOWN_CURRENCY = "unknown_currency"
    """A price's amount in the invoice's currency is not known, so its credits cannot be computed."""
    NEEDS_REFETCH = "needs_refetch"
    """The source shows only part, or may be out of date: read the invoice through the API and settle that."""
    IRRELEVANT = "irrelevant"
    """The invoice sells no plan, so Paidup does not follow it."""
    NOT_OURS = "not_ours"
    """The invoice is for another product on the same Stripe account."""
    PAID_ELSEWHERE = "paid_elsewhere"
    """It was paid before Paidup took up its subscription: its credits were given elsewhere."""
    UNCLAIMED = "unclaimed"
    """Its Checkout Session belongs to nobody yet: it is credited once somebody claims that."""

    @property
    def done(self) -> bool:
        return self in (Outcome.SETTLED, Outcome.ALREADY_SETTLED)


PUBLISHED = frozenset({Outcome.SETTLED, Outcome.NOTIFIED})
"""The outcomes that browsers are told of."""


class EventOutcome(StrEnum):
    """The result of handling a Stripe event: stored with the event, and shown in the webhook's answer.

    Every `Outcome` is one of these, with the same value.
    """

    SETTLED = "settled"
    ALREADY_SETTLED = "already_settled"
    NOTIFIED = "notified"
    NOT_YET = "not_yet"
    REFUSED = "refused"
    UNKNOWN_INVOICE = "unknown_invoice"
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNKNOWN_PRICE = "unknown_price"
    UNKNOWN_CURRENCY = "unknown_currency"
    NEEDS_REFETCH = "needs_refetch"
    IRRELEVANT = "irrelevant"
    NOT_OURS = "not_ours"
    PAID_ELSEWHERE = "paid_elsewhere"
    UNCLAIMED = "unclaimed"
    DUPLICATE = "duplicate"
    """The event was handled before. Never stored: the first delivery's outcome stays."""
    POSTPONED = "postponed"
    """Handling failed, and is tried again later. Never stored: the event stays unhandled."""
    UNCHANGED = "unchanged"
    """The event says nothing about the subscription that is not known."""
    REFRESH_SCHEDULED = "refresh_scheduled"
    """The reconciler will read the subscription from Stripe."""
    CUSTOMER_DELETED = "customer_deleted"
    """Stripe has deleted a customer: the account's next purchase makes a new one."""
    SKIPPED = "skipped"
    """Nothing to do here: the invoice is final, is being verified, or has events of its own."""
    UNHANDLED_TYPE = "unhandled_type"
    """Paidup does nothing with events of this type."""
    OTHER_ACCOUNT = "other_account"
    """The event is not of the account that `STRIPE_ACCOUNT` names: stored, and set apart."""
    DISMISSED = "dismissed"
    """An operator has dismissed the event. Stored with their name and reason."""


class Settled(msgspec.Struct, frozen=True):
    """An outcome, its reason in words, and the status that browsers now have or get.

    `invoice` is None where none is known; `created` is True where its row is new.
    """

    outcome: Outcome
    reason: str
    invoice: str | None = None
    status: StatusMessage | None = None
    created: bool = False
    changed_account: Account | None = None
    """The account, where its version has grown."""
    payment_seen: bool = False
    """Whether this is the first sight of a payment whose credits cannot be computed yet."""
    method_unknown: bool = False
    """Whether a payment is processing whose method has not been read from Stripe."""
    event_marked: bool = False
    """Whether the same transaction has marked the Stripe event as handled."""
