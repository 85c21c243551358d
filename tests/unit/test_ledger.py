"""The ledger: every movement is one entry, exactly once, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tortoise.exceptions import IntegrityError

from paidup.credits import ledger
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import Account, CreditGrant, EntryKind, GrantState, LedgerEntry
from paidup.errors import InsufficientCredits, KeyReused
from tests.support.factories import an_account, granted, three_sums

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)


async def spent(account: Account, credits: int, key: str, at: datetime = BEGIN) -> ledger.Spent:
    async with write_transaction():
        return await ledger.spend(await ledger.lock_account(account.id), credits, key, at)


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has accounts of its own."""
    return module_database_url


async def test_a_grant_is_an_entry_and_a_balance(ada: Account) -> None:
    invoice = await granted(ada, 2000)
    entry = await LedgerEntry.get(account_id=ada.id)
    assert (entry.kind, entry.credits, entry.balance_after) == (EntryKind.GRANT, 2000, 2000)
    assert entry.reference == f"{invoice.id}:1"
    assert await three_sums(ada.id) == (2000, 2000, 2000)


async def test_a_unique_key_prevents_a_second_grant_for_an_invoice(ada: Account) -> None:
    """S10: the unique key holds without any check in code, and nothing is left of the attempt."""
    invoice = await granted(ada, 2000)
    with pytest.raises(IntegrityError):
        async with write_transaction():
            await ledger.grant(await ledger.lock_account(ada.id), invoice.id, ledger.GrantTerms(2000))
    assert await three_sums(ada.id) == (2000, 2000, 2000)


async def test_a_grant_of_zero_is_written(ada: Account) -> None:
    """S37: one grant stands for each paid invoice."""
    await granted(ada, 0)
    assert await CreditGrant.filter(account_id=ada.id).count() == 1
    assert await three_sums(ada.id) == (0, 0, 0)


async def test_the_grant_that_expires_first_is_spent_first(ada: Account) -> None:
    for_ever = await granted(ada, 100)
    later = await granted(ada, 100, BEGIN + timedelta(days=20))
    sooner = await granted(ada, 100, BEGIN + timedelta(days=10))
    await spent(ada, 150, "a")
    remaining = {grant.invoice_id: grant.remaining for grant in await CreditGrant.filter(account_id=ada.id)}
    assert remaining == {sooner.id: 0, later.id: 50, for_ever.id: 100}


async def test_expired_credits_cannot_be_spent(ada: Account) -> None:
    await granted(ada, 100, BEGIN + timedelta(days=10))
    await granted(ada, 30)
    with pytest.raises(InsufficientCredits) as refused:
        await spent(ada, 100, "a", BEGIN + timedelta(days=10))
    assert (refused.value.balance, refused.value.needed) == (30, 100)


async def test_an_expiry_posts_the_unused_credits(ada: Account) -> None:
    await granted(ada, 100, BEGIN + timedelta(days=10))
    await spent(ada, 40, "a")
    for _ in range(2):
        async with write_transaction():
            await ledger.expire_due(await ledger.lock_account(ada.id), BEGIN + timedelta(days=10))
    ended = await LedgerEntry.get(account_id=ada.id, kind=EntryKind.EXPIRE)
    assert (ended.credits, ended.balance_after) == (-60, 0)
    assert (await CreditGrant.get(account_id=ada.id)).state is GrantState.EXPIRED
    assert await three_sums(ada.id) == (0, 0, 0)


async def test_the_same_key_spends_once_with_the_same_result(ada: Account) -> None:
    await granted(ada, 100)
    first = await spent(ada, 30, "key")
    await spent(ada, 20, "another")
    assert await spent(ada, 30, "key") == first == ledger.Spent(70, 30, "key")
    assert await three_sums(ada.id) == (50, 50, 50)


async def test_the_same_key_with_another_amount_is_refused(ada: Account) -> None:
    await granted(ada, 100)
    await spent(ada, 30, "key")
    with pytest.raises(KeyReused) as refused:
        await spent(ada, 31, "key")
    assert refused.value.credits == 30
    assert await three_sums(ada.id) == (70, 70, 70)


async def test_keys_are_scoped_to_the_account(ada: Account) -> None:
    bob = await an_account("bob")
    for account in (ada, bob):
        await granted(account, 100)
        await spent(account, 30, "key")
    assert await three_sums(bob.id) == (70, 70, 70)


async def test_a_failed_spend_does_not_use_its_key(ada: Account) -> None:
    with pytest.raises(InsufficientCredits):
        await spent(ada, 10, "key")
    await granted(ada, 10)
    assert (await spent(ada, 10, "key")).balance == 0


async def test_concurrent_spends_never_go_below_zero(ada: Account) -> None:
    await granted(ada, 50)
    await granted(ada, 55, BEGIN + timedelta(days=1))
    answers = await asyncio.gather(*(spent(ada, 10, f"{n}") for n in range(15)), return_exceptions=True)
    assert sum(isinstance(answer, ledger.Spent) for answer in answers) == 10
    assert sum(isinstance(answer, InsufficientCredits) for answer in answers) == 5
    assert await three_sums(ada.id) == (5, 5, 5)


async def test_concurrent_spends_with_one_key_spend_once(ada: Account) -> None:
    """A double click: two requests, one entry, one answer."""
    await granted(ada, 100)
    answers = await asyncio.gather(*(spent(ada, 10, "key") for _ in range(8)))
    assert set(answers) == {ledger.Spent(90, 10, "key")}


async def test_a_concurrent_spend_and_grant_both_count(ada: Account) -> None:
    await granted(ada, 100)
    await asyncio.gather(*(granted(ada, 10) for _ in range(5)), *(spent(ada, 5, f"{n}") for n in range(5)))
    assert await three_sums(ada.id) == (125, 125, 125)


# Any history at all


@dataclass(frozen=True)
class Grant:
    credits: int
    days: int | None


@dataclass(frozen=True)
class Spend:
    credits: int
    key: int


@dataclass(frozen=True)
class Wait:
    days: int


steps = st.lists(
    st.one_of(
        st.builds(Grant, st.integers(0, 200), st.none() | st.integers(1, 20)),
        st.builds(Spend, st.integers(1, 150), st.integers(1, 6)),
        st.builds(Wait, st.integers(1, 8)),
    ),
    max_size=12,
)


class Model:
    """The ledger as one would do it on paper."""

    def __init__(self) -> None:
        self.at = BEGIN
        self.grants: list[tuple[datetime, int, int]] = []  # ends, number, remaining
        self.keys: dict[int, tuple[int, int]] = {}  # key -> credits, balance after
        self._numbers = 0

    @property
    def balance(self) -> int:
        return sum(remaining for ends, _, remaining in self.grants if ends > self.at)

    def grant(self, credits: int, ends: datetime | None) -> None:
        self._numbers += 1
        self.grants.append((ends or datetime.max.replace(tzinfo=UTC), self._numbers, credits))

    def spend(self, credits: int, key: int) -> int | type[Exception]:
        if key in self.keys:
            before, after = self.keys[key]
            return after if before == credits else KeyReused
        if self.balance < credits:
            return InsufficientCredits
        left, kept = credits, []
        for ends, number, remaining in sorted(self.grants):
            taken = min(left, remaining) if ends > self.at else 0
            left -= taken
            kept.append((ends, number, remaining - taken))
        self.grants = kept
        self.keys[key] = (credits, self.balance)
        return self.balance


@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=steps)
def test_after_any_history_the_three_sums_are_one(database_url: str, history: list[object]) -> None:
    """S37: balance = sum of entries = what remains in live grants, after each step of any history."""
    asyncio.run(_play(database_url, history))


async def _play(url: str, history: list[object]) -> None:
    model = Model()
    async with open_database(url):
        account = await an_account()
        for step in history:
            match step:
                case Wait(days):
                    model.at += timedelta(days=days)
                case Grant(credits, days):
                    ends = model.at + timedelta(days=days) if days else None
                    await granted(account, credits, ends)
                    model.grant(credits, ends)
                case Spend(credits, key):
                    expected = model.spend(credits, key)
                    try:
                        answered: object = (await spent(account, credits, str(key), model.at)).balance
                    except (KeyReused, InsufficientCredits) as error:
                        answered = type(error)
                    assert answered == expected
            assert len(set(await three_sums(account.id))) == 1
        async with write_transaction():
            await ledger.expire_due(await ledger.lock_account(account.id), model.at)
        assert await three_sums(account.id) == (model.balance,) * 3
