"""Types of the API's successful responses (docs/api.md)."""

from __future__ import annotations

from datetime import datetime

import msgspec


class PaymentFailure(msgspec.Struct, frozen=True):
    """Why the bank or Stripe refused the payment."""

    code: str
    message: str
    decline_code: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The state of one invoice; docs/protocol.md lists the values."""

    invoice: str
    version: int
    status: str
    stage: str
    plan: str | None
    credits_granted: int
    balance: int
    via: str | None
    at: datetime
    error: PaymentFailure | None = None

    @property
    def active(self) -> bool:
        """Whether the invoice's credits are granted."""
        return self.status == "active"


class ActivatingPayment(msgspec.Struct, frozen=True):
    """A payment in progress. Pass `invoice` and `ticket` to the browser's `activate()`.

    `reason` is Stripe's `billing_reason`: "subscription_create", "subscription_cycle" for a renewal,
    "subscription_update" for a plan change, "manual" for a top-up.
    """

    invoice: str
    ticket: str
    status: Status
    reason: str | None = None


class Renewing(msgspec.Struct, frozen=True):
    """A renewal that Stripe is collecting. The customer has nothing to pay or to wait for.

    `since`: when its period began. `expected_at`: when Stripe charges the customer next, if that is known.
    `reason` is Stripe's `billing_reason`.
    """

    subscription: str
    plan: str | None
    invoice: str | None
    since: datetime
    expected_at: datetime | None
    reason: str = "subscription_cycle"


class AvailableGrant(msgspec.Struct, frozen=True):
    """Credits of one invoice that can still be spent: until `usable_until`, if that is set.

    `expires_at` is when their period ends; they outlast it while a renewal is awaited.
    """

    invoice: str
    plan: str | None
    credits: int
    remaining: int
    expires_at: datetime | None
    usable_until: datetime | None = None


class Expiry(msgspec.Struct, frozen=True):
    """When credits expire next, and how many."""

    at: datetime
    credits: int


class Credits(msgspec.Struct, frozen=True):
    """A customer's credits. A negative `balance` is a debt."""

    balance: int
    grants: list[AvailableGrant]
    next_expiry: Expiry | None
    activating: ActivatingPayment | None
    renewing: Renewing | None = None


class SpendResult(msgspec.Struct, frozen=True):
    """The balance after a spend, a commit or a release; `credits` is the amount of that call."""

    balance: int
    credits: int
    key: str


class ReservationResult(msgspec.Struct, frozen=True):
    """A reservation, and the balance after it."""

    key: str
    credits: int
    expires_at: datetime
    balance: int


class RunningSubscription(msgspec.Struct, frozen=True):
    """A subscription of the customer's; `status` is Stripe's."""

    id: str
    plan: str | None
    status: str


class PendingPayment(msgspec.Struct, frozen=True):
    """A payment to make. `client_secret` is for Stripe.js; None if nothing is due."""

    invoice: str
    client_secret: str | None
    ticket: str
    status: Status
