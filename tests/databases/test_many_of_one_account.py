"""An account with very many refunds, disputes and corrections reads no more than one with few."""

from __future__ import annotations

from pathlib import Path

from paidup.app import create_app
from paidup.credits import ledger, reservations
from paidup.credits.reversals import ReversalNews
from paidup.db.connection import connection, write_transaction
from paidup.db.models import ReversalKind
from paidup.payments.outcomes import Outcome
from paidup.runtime.clock import now
from tests.support.grown_accounts import Action, Doing, History, a_customer
from tests.support.many_of_one_account import add_many
from tests.support.paidup import settings
from tests.support.rows_read import counting

FEW, MANY = 5, 200
MORE_ROWS = 60
READS_ALL = {
    "a slice of the audit",
    "GET /api/account/entries.csv",
    "paidup explain",
    "the operators' page of it",
}
"""Their answer is about each entry, or says how many invoices and grants there are."""


class Reversing(Doing):
    """Also returns reserved credits on the locked account, and what a refund took that fails later."""

    @property
    def actions(self) -> dict[str, Action]:
        own = {"commit alone": self.commit_alone, "a refund fails": self.fail_a_refund}
        return {name: act for name, act in super().actions.items() if name not in READS_ALL} | own

    async def commit_alone(self) -> None:
        key = await self.reserve()
        async with write_transaction():
            locked = await ledger.lock_account(self._account.id)
            await reservations.commit(locked, key, 0, now())

    async def fail_a_refund(self) -> None:
        await self.settle()
        invoice = self._paid.pop()
        for status in ("succeeded", "failed"):
            news = ReversalNews(f"re_{invoice}", ReversalKind.REFUND, invoice, 2900, status, now())
            assert await self._services.settlement.reverse(news) is Outcome.SETTLED


async def test_what_one_account_has_very_many_of_is_not_read(database_url: str, tmp_path: Path) -> None:
    app = create_app(settings(database_url=database_url, data_dir=tmp_path, reconciler_in_server=False))
    async with app.router.lifespan_context(app):
        await a_customer(
            History(used_up=4_000, spends=1)
        )  # so that the planner takes the tables for large ones
        accounts = [await a_customer(History()) for _ in (FEW, MANY)]
        for account, count in zip(accounts, (FEW, MANY), strict=True):
            await add_many(account, count)
        await connection().execute_script("ANALYZE")
        few, many = [Reversing(app, account).actions for account in accounts]
        read: dict[str, list[int]] = {}
        for name in few:
            for actions in (few, many):
                await actions[name]()
                async with counting() as counted:
                    await actions[name]()
                read.setdefault(name, []).append(counted.total())
    assert {name: rows for name, rows in read.items() if rows[1] > rows[0] + MORE_ROWS} == {}
