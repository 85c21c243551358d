"""An account with a long history does what a new one does, and reads no more of the database for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from paidup.credits import account_states, audit, ledger, moves, shown_grants
from paidup.db.connection import connection, is_sqlite, open_database, write_transaction
from paidup.db.models import Account, CreditGrant
from paidup.db.unit_of_work import read_many
from paidup.errors import StorageUnavailable
from paidup.operations.search import find_matches
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.factories import an_account, granted
from tests.support.grown_accounts import Doing, History, a_customer
from tests.support.rows_read import counting

HISTORY = History(used_up=600, live=300, spends=2_000)
MORE_ROWS, MORE_STEPS = 150, 6_000
"""As for some pages of entries, and the first grants. One step of SQLite's is part of a row."""
READS_ALL = {"a slice of the audit", "GET /api/account/entries.csv"}
"""Their answer is about each entry."""
COUNTS_ALL = {"paidup explain", "the operators' page of it"}
"""They say how many invoices and grants there are."""
ADDS_UP = {"refund a payment"}
"""The balance after it is the sum of all grants with credits, which the database adds up."""


async def test_a_long_history_is_not_read(world: World) -> None:
    paidup = await world.server(reconciler_in_server=False)
    for _ in range(20):
        await a_customer(History(used_up=3, live=1, spends=5))
    await a_customer(History(used_up=4_000, spends=1))  # so that the planner takes the table for a large one
    new, grown = [Doing(paidup.app, await a_customer(past)).actions for past in (History(), HISTORY)]
    if not is_sqlite():
        await connection().execute_script("ANALYZE")
    most = MORE_STEPS if is_sqlite() else MORE_ROWS
    for name in (each for each in new if each not in READS_ALL | COUNTS_ALL | ADDS_UP):
        read = []
        for actions in (new, grown):
            await actions[name]()
            async with counting() as counted:
                await actions[name]()
            read.append(counted)
        assert read[1].total() - read[0].total() < most, (name, read[1].most_common(2))


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_grants_are_read_in_their_order_also_where_the_planner_takes_them_for_few(
    database_url: str,
) -> None:
    """It would rather sort few that are spread over the table: here, all of them."""
    async with open_database(database_url):
        accounts = [await an_account() for _ in range(40)]
        account, first = accounts[-1], accounts[0].id
        await connection().execute_script(
            "INSERT INTO credit_grants (account_id, installment, credits, remaining, state, created_at)"
            f" SELECT id, n, 100, CASE WHEN id = {account.id} THEN 100 ELSE 0 END, 'live', now()"
            f" FROM (SELECT {first} + n % 40 AS id, n FROM generate_series(1, 12000) n) AS made"
        )
        await connection().execute_script("ANALYZE credit_grants")
        reads: list[Callable[[], Awaitable[Any]]] = [
            lambda: shown_grants.first_grants(account.id),
            lambda: shown_grants.first_grants(account.id, ""),
            lambda: account_states.read_states([account.id]),
            lambda: read_many(CreditGrant, moves.FIRST, account.id, ""),
        ]
        rows = []
        for read in reads:
            async with counting() as counted:
                await read()
            rows.append(counted.total())
        assert max(rows) < MORE_ROWS, rows


async def test_of_very_many_grants_the_first_are_shown_and_all_pay_a_debt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What expires is added up over all of them; a page shows a hundred."""
    paidup = await world.server(reconciler_in_server=False)
    account = await an_account()
    soon, later = now() + timedelta(days=3), now() + timedelta(days=9)
    for number in range(150):
        await granted(account, 10, expires_at=soon if number > 90 else later if number > 20 else None)
    doing = Doing(paidup.app, account)
    shown = msgspec.json.decode(await doing.get("/api/credits"))
    assert shown["balance"] == 1500
    assert [each["credits"] for each in shown["expiring"]] == [590, 700]
    first, second = [each["at"] for each in shown["expiring"]]
    assert [each["expires_at"] for each in shown["grants"]] == [first] * 59 + [second] * 41
    assert {each["plan"] for each in shown["grants"]} == {"pro"}, "of their invoices, where they name none"
    earlier = [row.id for row in await CreditGrant.filter(account_id=account.id, expires_at=soon).limit(10)]
    hour = timedelta(hours=1)
    await CreditGrant.filter(id__in=earlier).update(expires_at=soon - hour, usable_until=soon)
    assert await shown_grants.expiring(account, 1) == [(soon, 590)], "all of a date, or nothing of it"
    for hours, id in enumerate(earlier[:3], start=2):
        await CreditGrant.filter(id=id).update(expires_at=soon - hours * hour)
    assert await shown_grants.expiring(account, 1) == [], "of five ends of a grace, three are read"
    assert await shown_grants.expiring(account, 3) == [(soon, 590), (later, 700)]
    await CreditGrant.filter(id__in=earlier).update(expires_at=soon)
    await CreditGrant.filter(account_id=account.id, expires_at=soon).update(usable_until=later)
    assert await shown_grants.expiring(account, 24) == [(later, 1290)], "while a renewal is awaited"
    monkeypatch.setattr(shown_grants, "_ENDS", "SELECT nothing")
    with pytest.raises(StorageUnavailable):
        await shown_grants.expiring(account, 1)
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        assert await moves.settle_debt(locked, [], 455) == 1045
    in_order = sorted(await CreditGrant.filter(account_id=account.id), key=moves.spending_order)
    assert [grant.remaining for grant in in_order] == [0] * 45 + [5] + [10] * 104


def test_of_very_many_grants_those_that_are_not_shown_may_be_over() -> None:
    """The shown ones end later than their place in the order says: they await a renewal."""
    at = now()
    grant = CreditGrant(expires_at=at - timedelta(hours=1), usable_until=at + timedelta(hours=1))
    awaiting = [grant] * (shown_grants.MOST + 1)
    assert shown_grants.may_be_over(awaiting, at)
    assert not shown_grants.may_be_over(awaiting[1:], at)
    assert not shown_grants.may_be_over(awaiting, at - timedelta(hours=2))


async def test_a_slice_of_the_audit_ends_before_it_has_too_many_entries(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that has more is a slice of its own. None is left out, or audited twice."""
    monkeypatch.setattr(audit, "ENTRIES_PER_SLICE", 4)
    async with open_database(database_url):
        for entries in (2, 1, 0, 6, 0, 1, 3, 1):
            account = await an_account()
            for _ in range(entries):
                await granted(account, 10)
        await Account.filter(id=account.id).update(balance=11)
        slices = [await audit.audit_slice(0)]
        while (last := slices[-1].last) is not None:
            slices.append(await audit.audit_slice(last))
    assert [each.accounts for each in slices] == [3, 1, 3, 1, 0]
    wrong = [{each.subject for each in part.findings if "account" in each.subject} for part in slices]
    assert wrong == [set(), set(), set(), {f"account {account.external_id}"}, set()]


async def test_the_beginning_of_an_id_is_found_by_an_index(database_url: str) -> None:
    async with open_database(database_url):
        names = [f"user-{number}%_" for number in range(400)]
        await Account.bulk_create([Account(external_id=name) for name in names])
        if not is_sqlite():
            await connection().execute_script("ANALYZE")
        async with counting() as counted:
            found = await find_matches("user-39")
        assert {each.id for each in found} == {names[39], *names[390:400]}
        assert [each.id for each in await find_matches("user-12%_")] == [names[12]]
        assert await find_matches("user-9__") == []
        assert counted.total() < (3_000 if is_sqlite() else 100), counted.most_common(2)
