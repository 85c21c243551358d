"""An account with a long history does what a new one does, and reads no more of the database for it."""

from __future__ import annotations

from paidup.db.connection import connection, is_sqlite
from tests.conftest import World
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
    for name in new.keys() - READS_ALL - COUNTS_ALL:
        read = []
        for actions in (new, grown):
            await actions[name]()
            async with counting() as counted:
                await actions[name]()
            read.append(counted)
        assert read[1].total() - read[0].total() < most, (name, read[1].most_common(2))
