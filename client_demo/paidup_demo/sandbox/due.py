"""Runs what becomes due as the clock moves, in order, each at its own time.

This covers expired first payments and Checkout Sessions, unpaid changes, cancellations, trials, renewals with
their drafts and retries, bank debits, vouchers, pending refunds and retries of webhooks. The actions are in
subscriptions.py, checkout_sessions.py, changes.py, renewals.py, debits.py, voucher_outcomes.py
and reversals.py.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from paidup_demo.sandbox import (
    changes,
    checkout_sessions,
    debits,
    ends,
    invoices,
    payments,
    renewals,
    reversals,
    subscriptions,
    voucher_outcomes,
    vouchers,
)
from paidup_demo.sandbox.clock import DAY_S, HOUR_S
from paidup_demo.sandbox.errors import Json, StripeError
from paidup_demo.sandbox.world import World

logger = logging.getLogger(__name__)
FIRST_PAYMENT_WITHIN_S = 23 * HOUR_S
TRIAL_NOTICE_S = 3 * DAY_S
RUNNING = ("active", "trialing", "past_due")

Act = Callable[[World, Json], object]


class Due(NamedTuple):
    """Something due at a time. `rank` orders what is due in the same second: an end before a renewal."""

    moment: int
    rank: int
    table: str
    id: str


def act_on_time(world: World, until: int | None = None) -> None:
    """Run everything due by then (default: now): a jump of a year renews twelve times, each in its month."""
    end = world.now() if until is None else until
    heap = list(_all(world))
    heapq.heapify(heap)
    while heap and heap[0].moment <= end:
        due = heapq.heappop(heap)
        row = world.store.find(due.table, due.id)
        if row is None or _next(world, due.table, row) != due:
            continue
        with world.clock.at(due.moment):
            for following in _do(world, due, row):
                heapq.heappush(heap, following)


def advance(world: World, seconds: int) -> None:
    """Move the clock, and run everything that becomes due at its own time."""
    act_on_time(world, world.now() + seconds)
    world.advance(seconds)


def _all(world: World) -> Iterator[Due]:
    for table in ("subscription", "invoice", "payment_intent", "refund", "retry", checkout_sessions.TABLE):
        for row in world.store.table(table).values():
            found = _next(world, table, row)
            if found is not None:
                yield found


def _do(world: World, due: Due, row: Json) -> Iterator[Due]:
    """Run it. What is due next for the object, and for a subscription's invoice; nothing if it failed."""
    try:
        _ACTS[due.rank](world, row)
    except StripeError:
        logger.exception("the sandbox could not do what was due for %s", due.id)
        return
    touched = [(due.table, row)]
    if due.table == "subscription":
        touched.append(("invoice", world.store.get("invoice", row["latest_invoice"])))
    for table, each in touched:
        following = _next(world, table, each)
        if following is not None and following != due:
            yield following


def _next(world: World, table: str, row: Json) -> Due | None:
    """What is due next for this object."""
    if table == "retry":
        return Due(row["at"], _RETRY, table, row["id"])
    if table == "payment_intent":
        return _decision(world, row)
    if table == "refund":
        settles_at = world.store.note(row["id"]).get("settles_at")
        return None if settles_at is None else Due(settles_at, _SETTLE_REFUND, table, row["id"])
    if table == checkout_sessions.TABLE:
        may = checkout_sessions.may_expire(world, row)
        return Due(row["expires_at"], _EXPIRE_SESSION, table, row["id"]) if may else None
    if table == "invoice":
        step_at = renewals.next_step_at(row)
        return None if step_at is None else Due(step_at, _COLLECT, table, row["id"])
    found = [Due(moment, rank, table, row["id"]) for moment, rank in _dates(world, row)]
    return min(found, default=None)


(
    _EXPIRE,
    _EXPIRE_CHANGE,
    _EXPIRE_SESSION,
    _NOTIFY,
    _CANCEL,
    _COLLECT,
    _RENEW,
    _SETTLE_REFUND,
    _RETRY,
    _DECIDE_DEBIT,
    _DECIDE_VOUCHER,
) = range(11)


def _decision(world: World, intent: Json) -> Due | None:
    """When a bank debit is decided, or a voucher paid or expired."""
    for rank, decided_at in (
        (_DECIDE_DEBIT, debits.decided_at(world, intent)),
        (_DECIDE_VOUCHER, vouchers.decided_at(world, intent)),
    ):
        if decided_at is not None:
            return Due(decided_at, rank, "payment_intent", intent["id"])
    return None


def _dates(world: World, subscription: Json) -> Iterator[tuple[int, int]]:
    """The times and ranks of everything scheduled for a subscription."""
    if subscription["status"] == "incomplete" and _waits(world, subscription):
        yield subscription["created"] + FIRST_PAYMENT_WITHIN_S, _EXPIRE
    if subscription["status"] not in RUNNING:
        return
    change_ends = changes.pending_expires_at(world, subscription)
    if change_ends is not None:
        yield change_ends, _EXPIRE_CHANGE
    if subscription["cancel_at"] is not None:
        yield subscription["cancel_at"], _CANCEL
    if subscription["cancel_at_period_end"]:
        yield ends.period_end(subscription), _CANCEL
    if subscription["status"] == "trialing":
        told = world.store.note(subscription["id"]).get("trial_end_told")
        if told != subscription["trial_end"]:
            notice = max(subscription["trial_end"] - TRIAL_NOTICE_S, subscription["trial_start"])
            yield notice, _NOTIFY
    yield subscription["items"]["data"][0]["current_period_end"], _RENEW


def _waits(world: World, subscription: Json) -> bool:
    """Whether the first payment has not been started."""
    found = invoices.default_payment(world, world.store.get("invoice", subscription["latest_invoice"]))
    return found is None or found[1]["status"] in payments.CONFIRMABLE


def _retry(world: World, row: Json) -> None:
    world.webhook_sender.retry(row["id"])


def _notify(world: World, subscription: Json) -> None:
    world.store.note(subscription["id"])["trial_end_told"] = subscription["trial_end"]
    world.events.record("customer.subscription.trial_will_end", subscription)


_ACTS: dict[int, Act] = {
    _EXPIRE: subscriptions.expire,
    _EXPIRE_CHANGE: changes.drop_pending,
    _EXPIRE_SESSION: checkout_sessions.expire,
    _NOTIFY: _notify,
    _CANCEL: subscriptions.cancel,
    _COLLECT: renewals.advance,
    _RENEW: subscriptions.renew,
    _SETTLE_REFUND: reversals.settle_refund,
    _RETRY: _retry,
    _DECIDE_DEBIT: debits.decide,
    _DECIDE_VOUCHER: voucher_outcomes.decide,
}
