"""Outbound events: their types, which ones a movement or a subscription's change makes, and their payload.

The payload follows Standard Webhooks (https://www.standardwebhooks.com): thin, with the account, its balance
and a version that only grows. A receiver that has seen a higher version of an account ignores a lower one.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class OutboundEventType(StrEnum):
    CREDITS_GRANTED = "credits.granted"
    CREDITS_REVERSED = "credits.reversed"
    CREDITS_RESTORED = "credits.restored"
    CREDITS_EXPIRED = "credits.expired"
    CREDITS_ADJUSTED = "credits.adjusted"
    BALANCE_LOW = "balance.low"
    BALANCE_DEPLETED = "balance.depleted"
    ACCOUNT_IN_DEBT = "account.in_debt"
    PAYMENT_ACTION_REQUIRED = "payment.action_required"
    PAYMENT_FAILED = "payment.failed"
    PAYMENT_PROCESSING = "payment.processing"
    SUBSCRIPTION_STARTED = "subscription.started"
    SUBSCRIPTION_RENEWED = "subscription.renewed"
    SUBSCRIPTION_CHANGED = "subscription.changed"
    SUBSCRIPTION_CANCELED = "subscription.canceled"
    SUBSCRIPTION_ENDED = "subscription.ended"
    CHECKOUT_UNCLAIMED = "checkout.unclaimed"


class OutboundFacts(msgspec.Struct, frozen=True):
    """One event, as it is sent. `data` holds the few facts of its type."""

    type: str
    at: datetime
    account: str | None
    version: int
    balance: int | None
    invoice: str | None
    subscription: str | None
    data: dict[str, Any]


def payload(event: OutboundFacts) -> bytes:
    """The body of its request: JSON."""
    common = {
        "account": event.account,
        "version": event.version,
        "balance": event.balance,
        "invoice": event.invoice,
        "subscription": event.subscription,
    }
    body = {"type": event.type, "timestamp": event.at, "data": {**event.data, **common}}
    return msgspec.json.encode(body)


def crossings(before: int, after: int, low: int | None) -> list[OutboundEventType]:
    """What a balance has become that it was not before. `low`: at or below it, a balance is low."""
    found = []
    if low is not None and before > low >= after:
        found.append(OutboundEventType.BALANCE_LOW)
    if before > 0 >= after:
        found.append(OutboundEventType.BALANCE_DEPLETED)
    if before >= 0 > after:
        found.append(OutboundEventType.ACCOUNT_IN_DEBT)
    return found


class SubscriptionState(msgspec.Struct, frozen=True):
    """What events tell of a subscription, as Stripe showed it at one time."""

    status: str
    plan: str | None
    quantity: int
    current_period_end: datetime | None
    cancel_at: datetime | None
    collection_paused: bool

    @property
    def runs(self) -> bool:
        """It has begun and has not ended."""
        return self.status not in ("incomplete", "incomplete_expired", "canceled")


def subscription_events(before: SubscriptionState, after: SubscriptionState) -> list[OutboundEventType]:
    """The events of a subscription that was `before` and is `after`, in the order in which they are sent."""
    if not after.runs:
        return [OutboundEventType.SUBSCRIPTION_ENDED] if before.runs else []
    if not before.runs:
        started = [OutboundEventType.SUBSCRIPTION_STARTED]
        return [*started, OutboundEventType.SUBSCRIPTION_CANCELED] if after.cancel_at else started
    found = []
    old, new = before.current_period_end, after.current_period_end
    if old is not None and new is not None and old < new:
        found.append(OutboundEventType.SUBSCRIPTION_RENEWED)
    if _terms(before) != _terms(after) or (before.cancel_at and before.cancel_at != after.cancel_at):
        found.append(OutboundEventType.SUBSCRIPTION_CHANGED)
    if after.cancel_at and not before.cancel_at:
        found.append(OutboundEventType.SUBSCRIPTION_CANCELED)
    return found


def _terms(state: SubscriptionState) -> tuple[str, str | None, int, bool]:
    return state.status, state.plan, state.quantity, state.collection_paused
