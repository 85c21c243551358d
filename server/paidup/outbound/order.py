"""The order of an account's deliveries to an endpoint: which is first, and what waits behind it.

A claim looks at the `LOOKS_AT` deliveries that have been due for longest. Where there are so many, those that
are not their account's first are put off, so that no later claim reads them. Once the first is delivered or
given up, the next is due, by the same transaction. Where nobody sees to that, since the process is of the
release before, it is due after `PUT_OFF`.

On PostgreSQL, a claim locks the first one and then what it puts off behind it, and waits for neither; a
record locks both, too. So nothing is put off behind a delivery that is over, and what was put off while a
record waited for the claim's end, it finds as it is then.
"""

# ruff: noqa: S608 - statements are made of constants

from __future__ import annotations

from datetime import timedelta

LOOKS_AT = 100
"""Deliveries that one claim looks at."""
PUT_OFF = timedelta(minutes=10)
"""How long one behind another is not looked at, at most."""


def _first_sql(besides: str = "") -> str:
    """The first of the account of `d`, without those that `besides` leaves out.

    Each of the two has an index of its own. NULL for an event of no account: those have no order.
    """
    oldest = (
        "SELECT p.id FROM event_deliveries p WHERE p.state = 'pending' AND p.replayed_at IS {}"
        f" AND p.endpoint_id = d.endpoint_id AND p.account_id = d.account_id{besides}"
        " ORDER BY p.event_id LIMIT 1"
    )
    return (
        f"CASE WHEN d.replayed_at IS NULL THEN ({oldest.format('NULL')})"
        f" ELSE ({oldest.format('NOT NULL')}) END"
    )


# With a plus, it looks at events that were not fanned out, of which there are few, and not at the account's.
SEEN = f"""
SELECT d.id, d.next_attempt_at, {_first_sql()} AS first, EXISTS (SELECT 1 FROM outbound_events w
    WHERE w.fanned_out = false AND +w.account_id = d.account_id AND w.id < d.event_id) AS awaits
FROM (SELECT * FROM event_deliveries WHERE state = 'pending' AND endpoint_id = $1 AND next_attempt_at <= $2
    ORDER BY next_attempt_at LIMIT {LOOKS_AT}) d"""
"""What a claim looks at: the `first` of each one's account, and whether it `awaits` an earlier event's
deliveries.
"""


def next_sql(among: str, ids: str, at: str, lock: str = "") -> str:
    """Makes due `at` what is first once the deliveries of these ids are over, and was put off behind one.

    It may run before they are recorded, or in the same statement. `among` is the database's condition for the
    rows that {} selects, each of which it finds by its key. With `lock`, what a claim puts off meanwhile is
    seen as it is then. A delivery that was tried before keeps its time: it may wait for its retry.
    """
    over = among.format(ids)
    first = f"SELECT {_first_sql(f' AND NOT p.id {over}')} FROM event_deliveries d WHERE d.id {over}"
    untried = (
        f"SELECT id, next_attempt_at FROM event_deliveries WHERE attempts = 0 AND id {among.format(first)}"
    )
    # PostgreSQL locks the row first, and then compares its time.
    return f"""
WITH untried AS ({untried} {lock})
UPDATE event_deliveries SET next_attempt_at = {at}
WHERE id {among.format(f"SELECT id FROM untried WHERE next_attempt_at > {at}")}"""
