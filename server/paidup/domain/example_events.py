"""An example of each outbound event, as `paidup trigger` sends it: realistic facts, marked as a test.

Each has `"test": true` in its data, which no other event has. Its account need not exist.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from paidup.domain.outbound_events import OutboundEventType

ACCOUNT = "paidup_test"
"""The account of examples, where none is named. Use no such user id for a customer."""
_INVOICE = "in_1TestOfPaidupTestOfPaidup"
_SUBSCRIPTION = "sub_1TestOfPaidupTestOfPaidup"
_CHECKOUT = "cs_test_1TestOfPaidupTestOfPaidup"
_MONTH = timedelta(days=30)
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class ExampleEvent(msgspec.Struct, frozen=True):
    """What an example says beside its type, account and time."""

    version: int
    balance: int | None
    invoice: str | None
    subscription: str | None
    data: dict[str, Any]


def example_event(event_type: OutboundEventType, at: datetime) -> ExampleEvent:
    """An example of this type. Its version follows the time, so that each is newer than the last."""
    kind = event_type.partition(".")[0]
    facts, balance = _FACTS[event_type]
    return ExampleEvent(
        version=int((at - _BEGINNING).total_seconds()),
        balance=balance,
        invoice=_INVOICE if kind in ("credits", "payment", "subscription") else None,
        subscription=_SUBSCRIPTION if kind in ("credits", "payment", "subscription") else None,
        data={**{name: _dated(value, at) for name, value in facts.items()}, "test": True},
    )


def _dated(value: Any, at: datetime) -> Any:
    return msgspec.to_builtins(at + value) if isinstance(value, timedelta) else value


_PAYMENT = {
    "plan": "pro",
    "billing_reason": "subscription_cycle",
    "amount_due_minor": 2900,
    "currency": "usd",
}
_DECLINED = {
    "code": "card_declined",
    "decline_code": "insufficient_funds",
    "message": "Your card was declined.",
}
_RUNNING = {
    "plan": "pro",
    "quantity": 1,
    "status": "active",
    "current_period_end": _MONTH,
    "collection_paused": False,
}
_FACTS: dict[OutboundEventType, tuple[dict[str, Any], int | None]] = {
    OutboundEventType.CREDITS_GRANTED: (
        {"credits": 2000, "reason": "Pro", "plan": "pro", "expires_at": _MONTH},
        2000,
    ),
    OutboundEventType.CREDITS_REVERSED: ({"credits": -2000, "reason": "refund", "plan": "pro"}, 0),
    OutboundEventType.CREDITS_RESTORED: (
        {"credits": 50, "reason": "reservation expired", "key": "job-17"},
        2000,
    ),
    OutboundEventType.CREDITS_EXPIRED: ({"credits": -300, "reason": "expired", "plan": "pro"}, 0),
    OutboundEventType.CREDITS_ADJUSTED: ({"credits": 100, "reason": "adjusted"}, 2100),
    OutboundEventType.BALANCE_LOW: ({}, 90),
    OutboundEventType.BALANCE_DEPLETED: ({}, 0),
    OutboundEventType.ACCOUNT_IN_DEBT: ({}, -40),
    OutboundEventType.PAYMENT_ACTION_REQUIRED: (_PAYMENT, 120),
    OutboundEventType.PAYMENT_FAILED: ({**_PAYMENT, "method": "card", "error": _DECLINED}, 120),
    OutboundEventType.PAYMENT_PROCESSING: ({**_PAYMENT, "method": "sepa_debit"}, 120),
    OutboundEventType.SUBSCRIPTION_STARTED: (_RUNNING, 2000),
    OutboundEventType.SUBSCRIPTION_RENEWED: (_RUNNING, 2000),
    OutboundEventType.SUBSCRIPTION_CHANGED: ({**_RUNNING, "quantity": 3}, 2000),
    OutboundEventType.SUBSCRIPTION_CANCELED: ({**_RUNNING, "cancel_at": _MONTH}, 2000),
    OutboundEventType.SUBSCRIPTION_ENDED: ({**_RUNNING, "status": "canceled"}, 0),
    OutboundEventType.CHECKOUT_UNCLAIMED: (
        {"checkout": _CHECKOUT, "plan": "pro", "amount_minor": 2900, "currency": "usd"},
        None,
    ),
}
