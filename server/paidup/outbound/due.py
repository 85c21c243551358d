"""The statements of the dispatcher: fan out events, claim what is due in order, record what became of it.

In order for each account and endpoint: a delivery is due once no earlier event of its account awaits its
deliveries, and no earlier one of these to this endpoint is pending. Replayed deliveries have an order of
their own, since an old event must not hold up the new ones.
"""

# ruff: noqa: S608 - statements are made of constants

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from paidup.db import sqlite
from paidup.db.bulk import select_by_keys, sqlite_update_sql, to_arrays, to_json, update_many, update_sql
from paidup.db.connection import connection, is_sqlite, repeatable, storage_errors, write_transaction
from paidup.db.outbound_models import DeliveryState, EventDelivery
from paidup.domain.outbound_events import OutboundFacts
from paidup.outbound.order import LOOKS_AT, PUT_OFF, SEEN, next_sql

FAN_OUT_AT_ONCE = 500
LEASE = timedelta(seconds=40)
"""How long a process has for one attempt, before another process makes it again."""

_WANTED = {
    "sqlite": "(p.types = '[]' OR EXISTS (SELECT 1 FROM json_each(p.types) j WHERE j.value = e.type))",
    "postgres": "(p.types = '[]'::jsonb OR p.types @> to_jsonb(e.type))",
}
_NEW = (
    "SELECT e.id, e.account_id, e.type FROM outbound_events e"
    f" WHERE e.fanned_out = false ORDER BY e.id LIMIT {FAN_OUT_AT_ONCE}"
)
_DELIVERIES = """
INSERT INTO event_deliveries (event_id, endpoint_id, account_id, state, attempts, next_attempt_at, created_at)
SELECT e.id, p.id, e.account_id, 'pending', 0, $1, $1
FROM {events} e JOIN event_endpoints p ON p.state = 'enabled' AND {wanted} ORDER BY e.id
ON CONFLICT DO NOTHING"""
_FAN_OUT = f"""
WITH new AS ({_NEW} FOR NO KEY UPDATE SKIP LOCKED),
made AS ({_DELIVERIES.format(events="new", wanted=_WANTED["postgres"])} RETURNING id),
marked AS (UPDATE outbound_events SET fanned_out = true FROM new WHERE outbound_events.id = new.id)
SELECT (SELECT count(*) FROM new) AS events, (SELECT count(*) FROM made) AS deliveries"""
_FACTS = """
d.id, d.attempts, e.message, e.id, e.type, e.created_at, a.external_id, e.version, e.balance,
e.invoice, COALESCE(e.subscription, i.subscription), e.data"""
_JOINED = """
JOIN outbound_events e ON e.id = d.event_id
LEFT JOIN accounts a ON a.id = e.account_id LEFT JOIN invoices i ON i.id = e.invoice"""
# Only what is pending has a next attempt. Were the state named, a plan might read all that is pending.
_FULL = f"(SELECT count(*) FROM seen) = {LOOKS_AT}"
_CLAIM = f"""
WITH seen AS MATERIALIZED ({SEEN}), due AS (
SELECT d.id FROM event_deliveries d
WHERE d.id = ANY(ARRAY(SELECT id FROM seen WHERE COALESCE(first = id, true) AND NOT awaits))
AND d.next_attempt_at <= $2
ORDER BY d.next_attempt_at, d.id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED),
first AS MATERIALIZED (
SELECT d.id FROM event_deliveries d
WHERE d.id = ANY(ARRAY(SELECT DISTINCT first FROM seen WHERE first <> id AND {_FULL}))
AND d.next_attempt_at IS NOT NULL FOR SHARE SKIP LOCKED),
behind AS (
SELECT d.id FROM event_deliveries d
WHERE d.id = ANY(ARRAY(SELECT s.id FROM seen s JOIN first f ON f.id = s.first WHERE s.first <> s.id))
AND d.next_attempt_at <= $2 FOR NO KEY UPDATE SKIP LOCKED),
put_off AS (
UPDATE event_deliveries SET next_attempt_at = $5 WHERE id = ANY(ARRAY(SELECT id FROM behind)) RETURNING 1),
d AS (
UPDATE event_deliveries SET next_attempt_at = $4, last_attempt_at = $2, attempts = attempts + 1
WHERE id = ANY(ARRAY(SELECT id FROM due))
RETURNING event_deliveries.id, event_deliveries.event_id, event_deliveries.attempts)
SELECT {_FACTS}, put_off.count FROM (SELECT count(*) FROM put_off) put_off LEFT JOIN (d {_JOINED}) ON true
ORDER BY d.id"""
_CLAIMED = f"SELECT {_FACTS} FROM event_deliveries d {_JOINED} WHERE d.id"
_LEASED = """
UPDATE event_deliveries SET next_attempt_at = ?1, last_attempt_at = ?2, attempts = attempts + 1
WHERE id IN (SELECT value FROM json_each(?3))"""
_PUT_OFF = """
UPDATE event_deliveries SET next_attempt_at = ?1 WHERE id IN (SELECT value FROM json_each(?2))"""
_RESULT = (
    "id",
    "state",
    "attempts",
    "next_attempt_at",
    "delivered_at",
    "status_code",
    "answer",
    "error",
    "duration_ms",
)
_CHANGES = ", ".join(f"{name} = {{{name}}}" for name in _RESULT if name not in ("id", "attempts"))
# Unless another process has made a later attempt meanwhile.
_WHERE = """event_deliveries.state = 'pending'
AND (event_deliveries.attempts = {attempts} OR {state} = 'delivered')"""
_NEXT_ON_SQLITE = next_sql("IN ({})", "SELECT value FROM json_each(?2)", "?1")
_NEXT = next_sql(
    "= ANY(ARRAY({}))",
    f"SELECT unnest(${len(_RESULT) + 2}::bigint[])",
    f"${len(_RESULT) + 1}",
    "FOR NO KEY UPDATE",
)


class Due(msgspec.Struct, frozen=True):
    """A delivery that this process has claimed, with its event."""

    id: int
    attempts: int
    message: str
    event_id: int
    facts: OutboundFacts


class Claimed(msgspec.Struct, frozen=True):
    """`more`: it put deliveries off, so that others may be due that it did not look at."""

    due: list[Due]
    more: bool


class Result(msgspec.Struct, frozen=True):
    """What became of an attempt. `next_attempt_at` None: there is no other."""

    delivery: int
    attempts: int
    state: DeliveryState
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    status_code: int | None
    answer: str | None
    error: str | None
    duration_ms: int


async def fan_out(at: datetime) -> int:
    """Make the deliveries of the next events; how many events there were. Raises StorageUnavailable."""
    if not is_sqlite():
        with storage_errors():
            _, found = await connection().execute_query(_FAN_OUT, [at])
            return int(found[0][0])
    with storage_errors():
        _, waiting = await connection().execute_query(_NEW, [])
    if not waiting:
        return 0
    async with write_transaction() as db:
        _, waiting = await db.execute_query(_NEW, [])
        deliveries = _DELIVERIES.format(events=f"({_NEW})", wanted=_WANTED["sqlite"]).replace("$1", "?1")
        await db.execute_query(deliveries, [at])
        last = waiting[-1][0] if waiting else 0
        await db.execute_query(
            "UPDATE outbound_events SET fanned_out = true WHERE fanned_out = false AND id <= ?1", [last]
        )
    return len(waiting)


async def claim(endpoint: int, at: datetime, limit: int) -> Claimed:
    """Claim the deliveries to this endpoint that are due. Raises StorageUnavailable."""
    with storage_errors():
        if is_sqlite():
            return await _claim_on_sqlite(endpoint, at, limit)
        _, found = await connection().execute_query(_CLAIM, [endpoint, at, limit, at + LEASE, at + PUT_OFF])
    rows = [tuple(cells) for cells in found]
    return Claimed([_to_due(cells[:-1]) for cells in rows if cells[0] is not None], rows[0][-1] > 0)


async def _claim_on_sqlite(endpoint: int, at: datetime, limit: int) -> Claimed:
    due, behind = await _seen_on_sqlite(endpoint, at, limit)
    if not due and not behind:
        return Claimed([], False)
    async with write_transaction() as db:
        due, behind = await _seen_on_sqlite(endpoint, at, limit)
        await db.execute_query(_LEASED, [at + LEASE, at, to_json(due)])
        if behind:
            await db.execute_query(_PUT_OFF, [at + PUT_OFF, to_json(behind)])
        return Claimed([_to_due(cells) async for cells in select_by_keys(_CLAIMED, due)], bool(behind))


async def _seen_on_sqlite(endpoint: int, at: datetime, limit: int) -> tuple[list[int], list[int]]:
    """The ids of those that are due, and of those to put off."""
    _, found = await connection().execute_query(f"{SEEN} ORDER BY 2, 1".replace("$", "?"), [endpoint, at])
    seen = [tuple(cells) for cells in found]
    due = [own for own, _, first, awaits in seen if first in (own, None) and not awaits]
    behind = [own for own, _, first, _ in seen if first not in (own, None)] if len(seen) == LOOKS_AT else []
    return due[:limit], behind


@repeatable
async def record(results: Sequence[Result], at: datetime) -> None:
    """Record these, unless another process has made a later attempt meanwhile. Raises StorageUnavailable.

    What waits behind those that are over is due by the same transaction.
    """
    rows = [(each.delivery, *(getattr(each, name) for name in _RESULT[1:])) for each in results]
    over = [each.delivery for each in results if each.state is not DeliveryState.PENDING]
    with storage_errors():
        if not over:
            await update_many(EventDelivery, _CHANGES, _WHERE, _RESULT, rows)
        elif is_sqlite():
            await _record_on_sqlite(rows, over, at)
        else:
            recorded = update_sql(EventDelivery, _CHANGES, _WHERE, _RESULT).removeprefix("WITH ")
            values = [*to_arrays(EventDelivery, _RESULT, rows), at, over]
            # These first, and then what is behind them, in the order of a statement that changes them all.
            await connection().execute_query(f"WITH next AS ({_NEXT}), {recorded}", values)


async def _record_on_sqlite(rows: Sequence[Sequence[Any]], over: Sequence[int], at: datetime) -> None:
    query = sqlite_update_sql(EventDelivery, _CHANGES, _WHERE, _RESULT)

    def change(connection: sqlite3.Connection) -> None:
        connection.executemany(query, rows)
        connection.execute(_NEXT_ON_SQLITE, (at, to_json(over)))

    await sqlite.run(connection(), partial(sqlite.in_transaction, change))


def _to_due(cells: tuple[Any, ...]) -> Due:
    delivery, attempts, message, event, kind, at, account, version, balance, invoice, subscription, data = (
        cells
    )
    data = msgspec.json.decode(data) if isinstance(data, str) else data
    facts = OutboundFacts(
        kind,
        msgspec.convert(at, datetime),
        account or data.get("account"),  # an example (`paidup trigger`) names one that need not exist
        version,
        balance,
        invoice,
        subscription,
        data,
    )
    return Due(delivery, attempts, message, event, facts)
