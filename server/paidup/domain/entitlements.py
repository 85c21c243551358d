"""What a customer may use: the plans of their subscriptions, and the features and limits of these plans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from paidup.domain.catalog import Catalogue, Limit

IN_GOOD_STANDING = frozenset({"trialing", "active", "past_due"})
"""Stripe's statuses of a subscription whose customer has its plan: also while a renewal is retried."""
UNLIMITED: Literal["unlimited"] = "unlimited"
NEVER_BEGUN = frozenset({"incomplete", "incomplete_expired"})
ENDED = ("canceled", "incomplete_expired")
"""For good."""


class KnownSubscription(msgspec.Struct, frozen=True):
    """A subscription of an account, as far as entitlements follow from it. Kept in the account's row."""

    id: str
    status: str
    plan: str | None
    pending_plan: str | None
    latest_invoice: str | None
    quantity: int
    current_period_end: datetime | None
    cancel_at: datetime | None


class Standing(msgspec.Struct, frozen=True):
    """What an account's subscriptions give, whatever the plans file says of it.

    `plan` is None, and `plans` empty, where none is in good standing. `status` is Stripe's: of the
    subscription to `plan`, or of the newest one that once began.
    """

    plan: str | None
    plans: tuple[str, ...]
    status: str | None
    quantity: int
    renews_at: datetime | None
    cancel_at: datetime | None


def standing_of(known: Sequence[KnownSubscription]) -> Standing:
    """`known` are the account's subscriptions, newest first."""
    giving = [one for one in known if one.plan and one.status in IN_GOOD_STANDING]
    if not giving:
        begun = [one.status for one in known if one.status not in NEVER_BEGUN]
        return Standing(None, (), begun[0] if begun else None, 0, None, None)
    first = giving[0]
    plans = tuple(dict.fromkeys(one.plan for one in giving if one.plan))
    end, cancel_at = first.current_period_end, first.cancel_at
    renews_at = end if end and (cancel_at is None or cancel_at > end) else None
    return Standing(first.plan, plans, first.status, first.quantity, renews_at, cancel_at)


class PaidInvoiceOf(msgspec.Struct, frozen=True):
    """A credited invoice of a subscription. `with_money`: so that it has begun, and is in no trial."""

    id: str
    subscription: str
    plan: str | None
    with_money: bool
    changes_plan: bool


def after_payment(
    known: Sequence[KnownSubscription], invoice: PaidInvoiceOf
) -> tuple[KnownSubscription, ...]:
    """`known` once this invoice is credited, as Stripe will say when the subscription is read."""
    return tuple(_after_payment(one, invoice) if one.id == invoice.subscription else one for one in known)


def _after_payment(one: KnownSubscription, invoice: PaidInvoiceOf) -> KnownSubscription:
    if one.status == "incomplete" and invoice.with_money:
        one = msgspec.structs.replace(one, status="active", plan=one.plan or invoice.plan)
    if one.pending_plan and invoice.changes_plan and one.latest_invoice == invoice.id:
        one = msgspec.structs.replace(one, plan=one.pending_plan, pending_plan=None)
    return one


class Rights(msgspec.Struct, frozen=True):
    """The features, and the limit of each name, of several plans together."""

    features: tuple[str, ...]
    limits: dict[str, Limit]


def rights_of(plans: Iterable[str], catalogue: Catalogue) -> Rights:
    """All features of these plans, and the largest of their limits. A plan that is not sold has none."""
    found = [plan for plan in map(catalogue.find, plans) if plan]
    features = sorted({name for plan in found for name in plan.features})
    limits: dict[str, Limit] = {}
    for plan in found:
        for name, limit in plan.limits.items():
            limits[name] = max(limits.get(name, limit), limit, key=_size)
    return Rights(tuple(features), dict(sorted(limits.items())))


def _size(limit: Limit) -> float:
    return float("inf") if isinstance(limit, str) else limit
