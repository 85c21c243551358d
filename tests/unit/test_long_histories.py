"""An account with a long history does what a new one does, and reads no more of the database for it."""

from __future__ import annotations

import pytest

from paidup.credits import audit
from paidup.db.connection import connection, is_sqlite, open_database
from paidup.db.models import Account
from paidup.operations.search import find_matches
from tests.conftest import World
from tests.support.factories import an_account, granted
from tests.support.grown_accounts import Doing, History, a_customer
from tests.support.rows_read import counting

HISTORY = History(used_up=600, live=20, spends=2_000)
MORE_ROWS, MORE_STEPS = 150, 4_000
"""As for some pages of entries, and all grants that have credits. One step of SQLite's is part of a row."""
READS_ALL = {"a slice of the audit", "GET /api/account/entries.csv"}
"""Their answer is about each entry."""
COUNTS_ALL = {"paidup explain", "the operators' page of it"}
"""They say how many invoices and grants there are."""


async def test_a_long_history_is_not_read(world: World) -> None:
    paidup = await world.server(reconciler_in_server=False)
    for _ in range(20):
        await a_customer(History(used_up=3, live=1, spends=5))
    new, grown = [Doing(paidup.app, await a_customer(past)).actions for past in (History(), HISTORY)]
    if not is_sqlite():
        await connection().execute_script("ANALYZE")
    most = MORE_STEPS if is_sqlite() else MORE_ROWS
    for name in (each for each in new if each not in READS_ALL | COUNTS_ALL):
        read = []
        for actions in (new, grown):
            await actions[name]()
            async with counting() as counted:
                await actions[name]()
            read.append(counted)
        assert read[1].total() - read[0].total() < most, (name, read[1].most_common(2))


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
