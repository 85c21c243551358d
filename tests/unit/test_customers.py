"""Which account a Stripe customer belongs to: kept in the database, and never moved."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

import pytest
from tortoise.exceptions import IntegrityError

from paidup.db.connection import is_sqlite, open_database, write_transaction
from paidup.db.customers import account_id_of, customers_of, forget_customer, link_customer
from paidup.db.models import Account, StripeCustomer
from paidup.db.postgres import Timeouts
from paidup.errors import StorageUnavailable
from paidup.runtime.clock import now
from paidup.subscriptions.accounts import Accounts


async def linked(account: Account, customer: str) -> bool:
    async with write_transaction():
        return await link_customer(account.id, customer)


async def test_an_account_has_several_customers(database: None) -> None:
    ada = await Account.create(external_id="ada")
    assert await linked(ada, "cus_1")
    assert await linked(ada, "cus_2")
    assert await linked(ada, "cus_1"), "again"
    ada = await Account.get(id=ada.id)
    assert ada.stripe_customer == "cus_1"
    assert await customers_of(ada) == ["cus_1", "cus_2"]
    assert await account_id_of("cus_1") == await account_id_of("cus_2") == ada.id
    assert await account_id_of("cus_3") is None


async def test_a_customer_of_another_account_is_never_taken_over(database: None) -> None:
    ada, bob = [await Account.create(external_id=name) for name in ("ada", "bob")]
    assert await linked(ada, "cus_1")
    assert not await linked(bob, "cus_1")
    assert await account_id_of("cus_1") == ada.id
    assert (await Account.get(id=bob.id)).stripe_customer is None
    assert await customers_of(bob) == []
    with pytest.raises(IntegrityError):
        await StripeCustomer.create(id="cus_1", account_id=bob.id)


async def test_a_customer_linked_by_the_previous_release_counts(database: None) -> None:
    """In a rolling deploy, it writes `accounts.stripe_customer` alone."""
    ada = await Account.create(external_id="ada", stripe_customer="cus_1")
    bob = await Account.create(external_id="bob")
    assert await account_id_of("cus_1") == ada.id
    assert await customers_of(ada) == ["cus_1"]
    assert not await linked(bob, "cus_1")
    assert await linked(ada, "cus_1")
    assert [row.id for row in await StripeCustomer.all()] == ["cus_1"]


async def test_two_accounts_that_link_one_customer_at_once(database: None) -> None:
    accounts = [await Account.create(external_id=f"user-{number}") for number in range(4)]
    # A context of its own is a connection of its own.
    links = [asyncio.create_task(linked(each, "cus_1"), context=Context()) for each in accounts]
    won = await asyncio.gather(*links)
    assert sum(won) == 1
    winner = accounts[won.index(True)]
    assert await account_id_of("cus_1") == winner.id
    assert [row.id for row in await Account.filter(stripe_customer="cus_1")] == [winner.id]


async def test_a_deleted_customer_stays_the_accounts(database: None) -> None:
    ada, bob = [await Account.create(external_id=name) for name in ("ada", "bob")]
    await linked(ada, "cus_1")
    async with write_transaction():
        await forget_customer("cus_1", now())
    ada = await Account.get(id=ada.id)
    assert ada.stripe_customer is None
    assert await customers_of(ada) == []
    assert await account_id_of("cus_1") == ada.id, "its refunds may still come"
    assert not await linked(bob, "cus_1")
    assert await linked(ada, "cus_1"), "but new purchases do not use it"
    assert (await Account.get(id=ada.id)).stripe_customer is None


async def test_an_account_is_awaited_only_until_a_deadline(database_url: str) -> None:
    """Also by those that wait for others' accounts to be read first, while the database does not answer."""
    unused: Any = None
    limits = Timeouts(lock_s=60, statement_s=60)
    async with open_database(database_url, timeouts=limits):
        await Account.create(external_id="ada")
        accounts, is_locked, may_end = (
            Accounts(unused, unused, within_s=0.05),
            asyncio.Event(),
            asyncio.Event(),
        )

        async def hold() -> None:
            async with write_transaction() as db:
                if not is_sqlite(db):
                    await db.execute_query("LOCK TABLE accounts")
                is_locked.set()
                await may_end.wait()

        holding = asyncio.create_task(hold())
        await is_locked.wait()
        asked = [accounts.get("ada") for _ in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        may_end.set()
        await holding
        assert [type(answer) for answer in answers] == [StorageUnavailable] * 3
        assert (await Accounts(unused, unused).get("ada")).external_id == "ada"
