"""The order of an account's deliveries to an endpoint: which is first, and what waits behind it.

A claim looks at the `LOOKS_AT` deliveries that have been due for longest. Where there are so many, those that
are not their account's first are put off, so that no later claim reads them. Once the first is delivered or
given up, the next is due. Where nobody sees to that, since the process was killed right before or is of the
release before, it is due after `PUT_OFF`.

On PostgreSQL, nothing is put off behind a delivery that is being recorded, since the first is locked by both.
What was put off before, `next_sql` finds: it is a later statement than the one that records.
"""

# ruff: noqa: S608 - statements are made of constants

from __future__ import annotations

from datetime import timedelta

LOOKS_AT = 100
"""Deliveries that one claim looks at."""
PUT_OFF = timedelta(minutes=10)
"""How long one behind another is not looked at, at most."""

_OLDEST = (
    "SELECT p.id FROM event_deliveries p WHERE p.state = 'pending' AND p.replayed_at IS {null}"
    " AND p.endpoint_id = d.endpoint_id AND p.account_id = d.account_id ORDER BY p.event_id LIMIT 1"
)
# Each has an index of its own. NULL for an event of no account: those have no order.
_FIRST = (
    f"CASE WHEN d.replayed_at IS NULL THEN ({_OLDEST.format(null='NULL')})"
    f" ELSE ({_OLDEST.format(null='NOT NULL')}) END"
)
# With a plus, it looks at events that were not fanned out, of which there are few, and not at the account's.
SEEN = f"""
SELECT d.id, d.next_attempt_at, {_FIRST} AS first, EXISTS (SELECT 1 FROM outbound_events w
    WHERE w.fanned_out = false AND +w.account_id = d.account_id AND w.id < d.event_id) AS awaits
FROM (SELECT * FROM event_deliveries WHERE state = 'pending' AND endpoint_id = $1 AND next_attempt_at <= $2
    ORDER BY next_attempt_at LIMIT {LOOKS_AT}) d"""
"""What a claim looks at: the `first` of each one's account, and whether it `awaits` an earlier event's
deliveries.
"""


def next_sql(among: str, ids: str) -> str:
    """The statement after which what waits behind these deliveries is due at $1, where they are over.

    `among` is the database's condition for the rows that {} selects, each of which it finds by its key. A
    delivery that was tried before keeps its time: it may wait for its retry.
    """
    over = f"d.id {among.format(ids)} AND d.state <> 'pending'"
    first = among.format(f"SELECT {_FIRST} FROM event_deliveries d WHERE {over}")
    return f"""
UPDATE event_deliveries SET next_attempt_at = $1
WHERE attempts = 0 AND next_attempt_at > $1 AND id {first}"""
