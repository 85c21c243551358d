"""However much waits for an endpoint that is down, a claim reads little, and finds what is due in order."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from datetime import datetime, timedelta

import pytest
from tortoise.exceptions import IntegrityError

from paidup.db.connection import connection, is_sqlite, write_transaction
from paidup.db.outbound_models import DeliveryState, EventDelivery, EventEndpoint
from paidup.domain.outbound_events import OutboundFacts
from paidup.errors import StorageUnavailable
from paidup.outbound import left
from paidup.outbound.due import LEASE, Claimed, Due, Result, claim, record
from paidup.outbound.health import Health
from paidup.outbound.order import LOOKS_AT, PUT_OFF
from paidup.outbound.retries import OPENS_AFTER
from paidup.runtime.clock import now
from tests.support.backlogs import a_backlog, add_deliveries, an_endpoint, any_deliveries
from tests.support.factories import an_account
from tests.support.rows_read import counting
from tests.support.waiting import wait_until

FEW, MANY = 50, 2_000
MORE_ROWS, MORE_STEPS = 450, 12_000
"""For `LOOKS_AT` deliveries in place of 50. One step of SQLite's is part of a row."""
OLD = """
SELECT d.id FROM event_deliveries d
WHERE d.state = 'pending' AND d.endpoint_id = $1 AND d.next_attempt_at <= $2
AND NOT EXISTS (SELECT 1 FROM event_deliveries p WHERE p.state = 'pending' AND p.endpoint_id = d.endpoint_id
    AND p.account_id = d.account_id AND p.event_id < d.event_id
    AND (p.replayed_at IS NULL) = (d.replayed_at IS NULL))
AND NOT EXISTS (SELECT 1 FROM outbound_events w WHERE w.fanned_out = false
    AND w.account_id = d.account_id AND w.id < d.event_id)
ORDER BY d.next_attempt_at, d.id"""
"""What is due, by comparing each with each: how it was found before."""

LOCK_WAIT = (
    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() LIMIT 1"
)
FORBID_ON_SQLITE = """
CREATE TRIGGER forbid BEFORE UPDATE ON event_deliveries WHEN old.attempts = 0
BEGIN SELECT RAISE(FAIL, 'as if the process had ended'); END"""
FORBID = """
CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'as if the process had ended'; END $$;
CREATE TRIGGER forbid BEFORE UPDATE ON event_deliveries FOR EACH ROW WHEN (old.attempts = 0)
EXECUTE FUNCTION forbid()"""


def a_result(due: Due, state: DeliveryState, next_attempt_at: datetime | None = None) -> Result:
    return Result(due.id, due.attempts, state, next_attempt_at, None, 500, None, None, 1)


async def claim_all(endpoint: EventEndpoint, at: datetime, limit: int = 1_000) -> list[Due]:
    """As the dispatcher does, whatever is due."""
    found: list[Due] = []
    claimed = Claimed([], True)
    while claimed.more or len(claimed.due) == limit:
        claimed = await claim(endpoint.id, at, limit)
        found += claimed.due
    return found


async def due_by_comparing(endpoint: EventEndpoint, at: datetime) -> list[int]:
    query = OLD.replace("$", "?") if is_sqlite() else OLD
    _, found = await connection().execute_query(query, [endpoint.id, at])
    return [row[0] for row in found]


@pytest.mark.parametrize("of_one_account", [True, False], ids=["one account", "many accounts"])
async def test_a_claim_reads_no_more_where_more_waits(database: None, of_one_account: bool) -> None:
    at, read = now(), []
    for size in (FEW, MANY):
        accounts, each = (1, size) if of_one_account else (size // 10, 10)
        endpoint = await an_endpoint()
        await a_backlog(endpoint, accounts, each, at)
        if not is_sqlite():
            await connection().execute_script("ANALYZE")
        rows, more = [], True
        while more:
            async with counting() as counted:
                more = (await claim(endpoint.id, at, 16)).more
            rows.append(counted.total())
        async with counting() as counted:
            (first,) = (await claim(endpoint.id, at + timedelta(minutes=5), 1)).due
            await record([a_result(first, DeliveryState.DEAD)], at)
        read.append(max(*rows, counted.total()))
        (second,) = (await claim(endpoint.id, at, 1)).due
        assert second.event_id == first.event_id + 1
    assert read[1] - read[0] < (MORE_STEPS if is_sqlite() else MORE_ROWS), read


async def test_counting_what_is_left_reads_no_more_where_more_is(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left, "COUNTED", FEW)
    at, read = now(), []
    for size in (FEW - 1, MANY):
        endpoint = await an_endpoint()
        await add_deliveries(endpoint, [None] * size, at)
        if not is_sqlite():
            await connection().execute_script("VACUUM ANALYZE event_deliveries")
        async with counting() as counted:
            counts = await left.count_left()
        read.append(counted.total())
        assert counts[endpoint.id, DeliveryState.PENDING] == min(size, FEW)
        assert (endpoint.id, DeliveryState.DEAD) not in counts
    assert read[1] - read[0] < (MORE_STEPS if is_sqlite() else MORE_ROWS), read


async def test_what_waits_behind_another_holds_up_no_other_account(database: None) -> None:
    at, endpoint = now(), await an_endpoint()
    await a_backlog(endpoint, 3, LOOKS_AT, at)
    eve = await an_account("eve")
    (event,) = await add_deliveries(endpoint, [eve], at)
    (due,) = await claim_all(endpoint, at)
    assert due.event_id == event


async def test_nothing_is_put_off_where_a_claim_looks_at_all_that_is_due(database: None) -> None:
    """Else each killed process could leave an account's next event to wait."""
    at, endpoint = now(), await an_endpoint()
    await a_backlog(endpoint, 1, LOOKS_AT, at)  # of which one waits for its retry
    assert await claim_all(endpoint, at) == []
    assert await EventDelivery.filter(endpoint=endpoint, next_attempt_at__lte=at).count() == LOOKS_AT - 1


async def test_an_endpoint_that_recovers_is_sent_what_failed_and_not_what_waits_behind(
    database: None,
) -> None:
    at, endpoint = now(), await an_endpoint()
    await a_backlog(endpoint, 1, LOOKS_AT + 1, at)
    assert await claim_all(endpoint, at) == [], "all is put off"
    endpoint.failures, endpoint.failing_since = OPENS_AFTER, at
    await Health(timedelta(days=1)).note(endpoint, delivered=True, gone=False)
    (due,) = await EventDelivery.filter(endpoint=endpoint, next_attempt_at__lte=now())
    assert due.attempts == 1


@pytest.mark.parametrize("seed", range(8))
async def test_what_is_due_is_what_comparing_each_with_each_finds(database: None, seed: int) -> None:
    chance, at = random.Random(seed), now()
    for _ in range(2):
        for endpoint in await any_deliveries(chance, at, most=LOOKS_AT * chance.choice([1, 5])):
            expected = await due_by_comparing(endpoint, at)
            limit = chance.choice([1, 16, 1_000])
            claimed = await claim(endpoint.id, at, limit)
            if len(expected) <= LOOKS_AT and not claimed.more:
                assert {each.id for each in claimed.due} <= set(expected)
            found = claimed.due + await claim_all(endpoint, at, limit)
            assert sorted(each.id for each in found) == sorted(expected)


@pytest.mark.parametrize("seed", range(4))
async def test_each_account_is_served_in_order_and_to_the_end(database: None, seed: int) -> None:
    """Whatever fails meanwhile, and whatever is new: the next is due as soon as the one before is over."""
    chance, at = random.Random(seed), now()
    endpoint = await an_endpoint()
    accounts = [await an_account() for _ in range(4)]
    over: dict[int, list[int]] = defaultdict(list)
    made: dict[int, list[int]] = defaultdict(list)
    for turn in range(300):
        if turn < 4:
            named = [chance.choice(accounts) for _ in range(60)]
            for event, account in zip(await add_deliveries(endpoint, [*named], at), named, strict=True):
                made[account.id].append(event)
        expected = await due_by_all_that_is_pending(endpoint, at)
        claimed = await claim_all(endpoint, at, 16)
        assert {each.event_id for each in claimed} == expected
        results = []
        for each in claimed:
            fails = turn < 12 or chance.random() < 0.05
            retry_at = at + timedelta(seconds=chance.randint(1, 5)) if fails else None
            state = DeliveryState.PENDING if fails else DeliveryState.DELIVERED
            results.append(a_result(each, state, retry_at))
            if not fails:
                row = await EventDelivery.get(id=each.id)
                over[row.account_id or 0].append(each.event_id)
        at += timedelta(seconds=1)
        if results:
            await record(results, at)
        if not await EventDelivery.exists(state=DeliveryState.PENDING):
            break
    assert over == made


async def due_by_all_that_is_pending(endpoint: EventEndpoint, at: datetime) -> set[int]:
    """The first of each account, unless it was tried and waits for its retry."""
    first: dict[int | None, EventDelivery] = {}
    for row in await EventDelivery.filter(endpoint=endpoint, state=DeliveryState.PENDING).order_by(
        "event_id"
    ):
        first.setdefault(row.account_id, row)
    return {
        row.event_id
        for row in first.values()
        if not row.attempts or (row.next_attempt_at and row.next_attempt_at <= at)
    }


async def test_nothing_is_put_off_behind_what_is_being_recorded(database: None) -> None:
    """Else nobody would find it when that is over."""
    at, endpoint = now(), await an_endpoint()
    await a_backlog(endpoint, 1, LOOKS_AT + 1, at)
    first = await EventDelivery.get(attempts=1)
    locked = asyncio.Event()

    async def claim_meanwhile() -> Claimed:
        await locked.wait()
        return await claim(endpoint.id, at, 16)

    claiming = asyncio.create_task(claim_meanwhile())
    async with write_transaction():
        await EventDelivery.filter(id=first.id).update(state=DeliveryState.DEAD, next_attempt_at=None)
        locked.set()
        if not is_sqlite():  # which has one writer at a time
            assert await claiming == Claimed([], False)
    await claiming
    second = await EventDelivery.filter(id__gt=first.id).order_by("id").first()
    assert second is not None
    assert second.next_attempt_at is not None
    assert second.next_attempt_at <= at + LEASE


async def test_what_is_put_off_while_it_is_recorded_that_the_first_is_over_is_due(database: None) -> None:
    """The record's statement began before, and waits for the claim's end."""
    if is_sqlite():  # which has one writer at a time
        return
    at, endpoint = now(), await an_endpoint()
    await a_backlog(endpoint, 1, LOOKS_AT + 1, at)
    first = await EventDelivery.get(attempts=1).select_related("event")
    facts = OutboundFacts(first.event.type, at, None, 0, 0, None, None, {})
    over = a_result(Due(first.id, 1, "msg", first.event_id, facts), DeliveryState.DEAD)
    put_off, recording = asyncio.Event(), asyncio.Event()

    async def claim_slowly() -> None:
        async with write_transaction():
            assert (await claim(endpoint.id, at, 16)).more
            put_off.set()
            await recording.wait()

    claiming = asyncio.create_task(claim_slowly())
    await put_off.wait()
    recorded = asyncio.create_task(record([over], at))
    await wait_until(lambda: connection().execute_query_dict(LOCK_WAIT))
    recording.set()
    await asyncio.gather(claiming, recorded)
    (second,) = (await claim(endpoint.id, at, 16)).due
    assert second.event_id == first.event_id + 1


async def test_what_waits_for_its_retry_is_not_due_before_since_another_is_over(database: None) -> None:
    """As where the first of an account was replayed after it."""
    at, endpoint = now(), await an_endpoint()
    _, second = await add_deliveries(endpoint, [await an_account()] * 2, at)
    (due,) = await claim_all(endpoint, at)
    retried = EventDelivery.filter(event_id=second)
    await retried.update(attempts=1, next_attempt_at=at + timedelta(minutes=5))
    await record([a_result(due, DeliveryState.DELIVERED)], at)
    assert await claim_all(endpoint, at) == []
    assert len(await claim_all(endpoint, at + timedelta(minutes=5))) == 1


async def test_claims_at_the_same_moment_never_take_the_same(database: None) -> None:
    at, endpoint = now(), await an_endpoint()
    for _ in range(10):
        await add_deliveries(endpoint, [None] * 40, at)
        claims = await asyncio.gather(*(claim(endpoint.id, at, 10) for _ in range(8)))
        taken = [due.id for claimed in claims for due in claimed.due]
        assert len(taken) == len(set(taken))
        taken += [due.id for due in await claim_all(endpoint, at)]
        assert len(taken) == len(set(taken)) == 40


async def test_an_attempt_whose_lease_has_ended_counts_only_where_it_delivered(database: None) -> None:
    """Another process has made a later one, which may be under way."""
    at, endpoint = now(), await an_endpoint()
    await add_deliveries(endpoint, [None], at)
    (early,) = (await claim(endpoint.id, at, 1)).due
    (late,) = (await claim(endpoint.id, at + LEASE, 1)).due
    for state in (DeliveryState.PENDING, DeliveryState.DEAD):
        await record([a_result(early, state, at if state is DeliveryState.PENDING else None)], at)
        assert await EventDelivery.filter(id=late.id, next_attempt_at=at + 2 * LEASE).exists()
    await record([a_result(early, DeliveryState.DELIVERED)], at)
    await record([a_result(late, DeliveryState.DEAD)], at)
    assert await EventDelivery.filter(id=late.id, state=DeliveryState.DELIVERED).exists()


async def test_nothing_is_recorded_without_what_waits_behind_it(database: None) -> None:
    """Else it would wait for minutes where a process, or its connection, ends between the two."""
    at, endpoint = now(), await an_endpoint()
    first, second = await add_deliveries(endpoint, [await an_account()] * 2, at)
    (due,) = await claim_all(endpoint, at)
    await EventDelivery.filter(event_id=second).update(next_attempt_at=at + PUT_OFF)
    await connection().execute_script(FORBID_ON_SQLITE if is_sqlite() else FORBID)
    try:
        with pytest.raises((StorageUnavailable, IntegrityError)):
            await record([a_result(due, DeliveryState.DELIVERED)], at)
    finally:
        await connection().execute_script(
            f"DROP TRIGGER forbid{'' if is_sqlite() else ' ON event_deliveries'}"
        )
    assert await EventDelivery.filter(event_id=first, state=DeliveryState.PENDING).exists()


async def test_what_a_process_of_the_release_before_has_recorded_is_followed_later(database: None) -> None:
    at, endpoint = now(), await an_endpoint()
    await a_backlog(endpoint, 1, LOOKS_AT + 1, at)
    assert await claim_all(endpoint, at) == []
    await EventDelivery.filter(attempts=1).update(state=DeliveryState.DELIVERED, next_attempt_at=None)
    assert await claim_all(endpoint, at + timedelta(minutes=9)) == []
    (due,) = await claim_all(endpoint, at + PUT_OFF)
    assert due.attempts == 1
