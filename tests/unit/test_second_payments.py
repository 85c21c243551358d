"""The sweep that flags second payments asks as often for many accounts as for one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from tortoise.backends.sqlite.client import SqliteClient

from paidup.db.connection import open_database
from paidup.db.models import Account, CheckoutSession, Subscription
from paidup.reconciliation.second_payments import SecondPayments
from paidup.runtime.clock import now


async def an_account_that_paid_twice(number: int) -> None:
    """By two subscriptions, each of which a session has begun."""
    at = now()
    account = await Account.create(external_id=f"user-{number}")
    for nth in range(2):
        subscription = await Subscription.create(
            id=f"sub_{number}_{nth}", account=account, plan="pro", status="active", refresh_at=at
        )
        await Subscription.filter(id=subscription.id).update(created_at=at - timedelta(hours=2 - nth))
    for nth in range(2):
        await CheckoutSession.create(
            id=f"cs_test_{number}_{nth}",
            account=account,
            mode="subscription",
            status="complete",
            payment_status="paid",
            subscription=f"sub_{number}_{nth}",
            expires_at=at,
            completed_at=at,
            created_at=at,
        )


async def test_one_sweep_flags_all_accounts_with_a_few_queries(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S39: and the next one, which finds nothing new, asks no more than for nobody."""
    copyfile(sqlite_template, tmp_path / "paidup.db")
    asked = 0

    def counting(real: Any) -> Any:
        async def execute(self: SqliteClient, *arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            return await real(self, *arguments)

        return execute

    async with open_database(f"sqlite://{tmp_path / 'paidup.db'}"):
        for number in range(6):
            await an_account_that_paid_twice(number)
        assert await SecondPayments().sweep() == 6
        flagged = CheckoutSession.filter(duplicate_of__not_isnull=True).order_by("id")
        assert [row.id for row in await flagged] == [f"cs_test_{number}_1" for number in range(6)]
        for name in ("execute_query", "execute_query_dict"):
            monkeypatch.setattr(SqliteClient, name, counting(getattr(SqliteClient, name)))
        assert await SecondPayments().sweep() == 0
    assert asked <= 10
