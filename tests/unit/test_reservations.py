"""Reservations: credits held for work whose cost is known only afterwards, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paidup.credits import ledger, reservations
from paidup.credits.ledger import Spent
from paidup.credits.reservations import Reserved
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import Account, CreditGrant, EntryKind, GrantState, LedgerEntry, Reservation
from paidup.errors import Conflict, InsufficientCredits, InvalidInput, KeyReused, NotFound, ReservationOver
from tests.support.factories import an_account, granted, three_sums

T = TypeVar("T")

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
SOON = timedelta(minutes=15)
DAY = timedelta(days=1)


async def moved(account: Account, move: Callable[[Account], Awaitable[T]]) -> T:
    """`move` on the locked account, in a transaction."""
    async with write_transaction():
        return await move(await ledger.lock_account(account.id))


async def reserved(
    account: Account, credits: int, key: str = "work", at: datetime = BEGIN, within: timedelta = SOON
) -> Reserved:
    return await moved(account, lambda own: reservations.reserve(own, credits, key, at + within, at))


async def committed(account: Account, credits: int, key: str = "work", at: datetime = BEGIN) -> Spent:
    return await moved(account, lambda own: reservations.commit(own, key, credits, at))


async def released(account: Account, key: str = "work", at: datetime = BEGIN) -> Spent:
    return await moved(account, lambda own: reservations.release(own, key, at))


async def spent(account: Account, credits: int, key: str, at: datetime = BEGIN) -> Spent:
    return await moved(account, lambda own: reservations.spend(own, credits, key, at))


async def lapsed(account: Account, at: datetime) -> int:
    return await moved(account, lambda own: reservations.expire_due(own, at))


async def remaining(account: Account) -> list[int]:
    """What each grant holds, in the order in which they were given."""
    return [grant.remaining for grant in await CreditGrant.filter(account_id=account.id).order_by("id")]


async def entries(account: Account) -> list[tuple[str, int, int]]:
    rows = await LedgerEntry.filter(account_id=account.id).order_by("id")
    return [(row.kind.value, row.credits, row.balance_after) for row in rows]


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has accounts of its own."""
    return module_database_url


async def test_reserved_credits_leave_the_balance_at_once(ada: Account) -> None:
    await granted(ada, 100)
    assert await reserved(ada, 70) == Reserved("work", 70, BEGIN + SOON, 30)
    assert await three_sums(ada.id) == (30, 30, 30)
    with pytest.raises(InsufficientCredits):
        await spent(ada, 31, "a")
    with pytest.raises(InsufficientCredits):
        await reserved(ada, 31, "more")


async def test_a_commit_spends_what_was_used_and_returns_the_rest(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 70)
    assert await committed(ada, 50) == Spent(50, 50, "work")
    assert await entries(ada) == [
        ("grant", 100, 100),
        ("reserve", -70, 30),
        ("release", 70, 100),
        ("spend", -50, 50),
    ]
    assert await three_sums(ada.id) == (50, 50, 50)


async def test_the_credits_taken_first_are_used_first(ada: Account) -> None:
    """What goes back is what would have lasted longest."""
    await granted(ada, 100)
    await granted(ada, 40, BEGIN + 10 * DAY)
    await granted(ada, 30, BEGIN + 5 * DAY)
    await reserved(ada, 120)
    assert await remaining(ada) == [50, 0, 0]
    await committed(ada, 45)
    assert await remaining(ada) == [100, 25, 0]


async def test_a_commit_may_use_all_or_nothing(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 60, "all")
    await reserved(ada, 40, "none")
    assert await committed(ada, 60, "all") == Spent(0, 60, "all")
    assert await committed(ada, 0, "none") == Spent(40, 0, "none")
    assert await LedgerEntry.filter(account_id=ada.id, kind=EntryKind.SPEND).count() == 1
    assert await three_sums(ada.id) == (40, 40, 40)


async def test_a_release_returns_everything_once(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 70)
    assert await released(ada) == await released(ada) == Spent(100, 70, "work")
    assert (await entries(ada))[2:] == [("release", 70, 100)]


async def test_repeating_a_reservation_gives_the_same_result(ada: Account) -> None:
    """While it is held: it is a repetition, not another reservation."""
    await granted(ada, 100)
    first = await reserved(ada, 70)
    await spent(ada, 10, "a")
    assert await reserved(ada, 70, at=BEGIN + timedelta(minutes=1)) == first
    assert await three_sums(ada.id) == (20, 20, 20)
    with pytest.raises(KeyReused) as refused:
        await reserved(ada, 71)
    assert refused.value.credits == 70


async def test_the_key_of_an_ended_reservation_reserves_nothing(ada: Account) -> None:
    """An old success would say that credits are held, and none are."""
    await granted(ada, 100)
    for key in ("committed", "released", "expired", "not swept yet"):
        await reserved(ada, 10, key)
    await committed(ada, 10, "committed")
    await released(ada, "released")
    await moved(ada, lambda own: _expire_one(own, "expired"))
    before = await three_sums(ada.id)
    states = {
        "committed": "committed",
        "released": "released",
        "expired": "expired",
        "not swept yet": "expired",
    }
    for key, state in states.items():
        with pytest.raises(ReservationOver) as refused:
            await reserved(ada, 10, key, at=BEGIN + SOON)
        assert (refused.value.key, refused.value.state) == (key, state)
    assert await three_sums(ada.id) == before == (80, 80, 80)
    await lapsed(ada, BEGIN + SOON)
    assert await three_sums(ada.id) == (90, 90, 90)


async def test_repeating_a_commit_gives_the_same_result(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 70)
    first = await committed(ada, 50)
    await spent(ada, 10, "a")
    assert await committed(ada, 50, at=BEGIN + DAY) == first
    with pytest.raises(KeyReused) as refused:
        await committed(ada, 51)
    assert refused.value.credits == 50
    assert await three_sums(ada.id) == (40, 40, 40)


async def test_an_ended_reservation_cannot_be_committed(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 10, "released")
    await released(ada, "released")
    await reserved(ada, 10, "expired")
    await reserved(ada, 10, "not swept yet")
    await moved(ada, lambda own: _expire_one(own, "expired"))
    for key, state in (("released", "released"), ("expired", "expired"), ("not swept yet", "expired")):
        with pytest.raises(ReservationOver) as refused:
            await committed(ada, 10, key, BEGIN + SOON)
        assert (refused.value.key, refused.value.state) == (key, state)
        assert isinstance(refused.value, Conflict)
    assert await three_sums(ada.id) == (90, 90, 90)


async def _expire_one(account: Account, key: str) -> None:
    await Reservation.filter(account_id=account.id, key=key).update(expires_at=BEGIN - SOON)
    assert await reservations.expire_due(account, BEGIN) == 1


async def test_a_committed_reservation_cannot_be_released(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 70)
    await committed(ada, 50)
    with pytest.raises(ReservationOver) as refused:
        await released(ada)
    assert refused.value.state == "committed"


async def test_a_commit_cannot_exceed_the_reservation(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 70)
    with pytest.raises(InvalidInput):
        await committed(ada, 71)
    assert await committed(ada, 70) == Spent(30, 70, "work")


async def test_keys_are_scoped_to_the_account(ada: Account) -> None:
    bob = await an_account("bob")
    await granted(ada, 100)
    await reserved(ada, 70)
    with pytest.raises(NotFound):
        await committed(bob, 70)
    with pytest.raises(NotFound):
        await released(bob)


async def test_spend_and_commit_keys_never_collide(ada: Account) -> None:
    """Whatever keys a caller chooses, a spend and a commit are two things."""
    await granted(ada, 100)
    for key in ("work", f"reservation:{ada.id}:work", "reservation:work", f"{ada.id}:reservation:work"):
        await spent(ada, 10, key)
    await reserved(ada, 10)
    assert await committed(ada, 10) == Spent(50, 10, "work")


async def test_an_expired_reservation_returns_its_credits(ada: Account) -> None:
    await granted(ada, 100)
    await reserved(ada, 70)
    assert await lapsed(ada, BEGIN + SOON - timedelta(seconds=1)) == 0
    assert await lapsed(ada, BEGIN + SOON) == 1
    assert await lapsed(ada, BEGIN + SOON) == 0
    assert await three_sums(ada.id) == (100, 100, 100)
    assert (await released(ada, at=BEGIN + SOON)).balance == 100, "it is released already"


@pytest.mark.parametrize("move", [spent, reserved])
async def test_due_reservations_expire_first_when_credits_are_short(
    ada: Account, move: Callable[..., Awaitable[object]]
) -> None:
    """No sweep has come by yet: nobody is refused for credits that nobody holds."""
    await granted(ada, 100)
    await reserved(ada, 70)
    with pytest.raises(InsufficientCredits):
        await move(ada, 80, "more", BEGIN)
    await move(ada, 80, "more", BEGIN + SOON)
    assert await three_sums(ada.id) == (20, 20, 20)


async def test_credits_returned_to_an_expired_grant_expire_again(ada: Account) -> None:
    """The end is an entry of its own, and the answer counts it."""
    await granted(ada, 100, BEGIN + DAY)
    await granted(ada, 100)
    await reserved(ada, 130, within=2 * DAY)
    assert await committed(ada, 20, at=BEGIN + DAY) == Spent(100, 20, "work")
    assert (await entries(ada))[3:] == [("release", 130, 200), ("expire", -80, 120), ("spend", -20, 100)]
    ended, lasting = await CreditGrant.filter(account_id=ada.id).order_by("id")
    assert (ended.state, ended.remaining, ended.expired) == (GrantState.EXPIRED, 0, 80)
    assert (lasting.state, lasting.remaining) == (GrantState.LIVE, 100)
    assert await three_sums(ada.id) == (100, 100, 100)


async def test_credits_returned_to_a_grant_that_ended_early_expire_too(ada: Account) -> None:
    """A subscription that has ended took its grant with it, whatever the grant's own time."""
    await granted(ada, 100, BEGIN + 30 * DAY, rollover_cap=50)
    await reserved(ada, 70)
    live = await CreditGrant.filter(account_id=ada.id)
    await moved(ada, lambda own: ledger.expire(own, live, "the subscription has ended", BEGIN))
    assert await three_sums(ada.id) == (0, 0, 0)
    assert (await released(ada)).balance == 0
    assert await three_sums(ada.id) == (0, 0, 0)


@pytest.mark.parametrize("held", [40, 80, 100])
async def test_reserving_cannot_exceed_the_rollover_cap(ada: Account, held: int) -> None:
    await granted(ada, 100, BEGIN + DAY, rollover_cap=30)
    await reserved(ada, held, within=2 * DAY)
    await moved(ada, lambda own: ledger.expire_due(own, BEGIN + DAY))
    await released(ada, at=BEGIN + DAY)
    assert await three_sums(ada.id) == (30, 30, 30)


@pytest.mark.parametrize("looked", [True, False])
async def test_an_expiry_run_before_the_release_changes_nothing(ada: Account, looked: bool) -> None:
    """Two grants have ended, of which 40 credits stay: the same ones stay."""
    for _ in range(2):
        await granted(ada, 100, BEGIN + DAY, rollover_cap=40)
    await reserved(ada, 120, within=2 * DAY)
    if looked:
        await moved(ada, lambda own: ledger.expire_due(own, BEGIN + DAY))
    await released(ada, at=BEGIN + DAY)
    assert await remaining(ada) == [0, 40]


async def test_returned_credits_pay_a_debt_first(ada: Account) -> None:
    """The money went back while the credits were reserved: what is unused pays for what is owed."""
    await granted(ada, 100)
    await reserved(ada, 70)
    grant = await CreditGrant.get(account_id=ada.id)
    await moved(ada, lambda own: ledger.adjust(own, grant, 50, "less after all", BEGIN))
    assert await three_sums(ada.id) == (-20, -20, -20)
    assert await committed(ada, 40) == Spent(10, 40, "work")
    assert await three_sums(ada.id) == (10, 10, 10)


async def test_credits_above_a_grants_capacity_return_to_another(ada: Account) -> None:
    """The money went and came back meanwhile; what had been taken for it elsewhere is owed there."""
    await granted(ada, 100, BEGIN + DAY)
    await granted(ada, 100)
    await reserved(ada, 100)
    first = await CreditGrant.filter(account_id=ada.id).order_by("id").first()
    assert first is not None
    for credits in (0, 100):
        await moved(ada, lambda own, to=credits: ledger.adjust(own, first, to, f"now {to}", BEGIN))  # type: ignore[misc]
    await released(ada)
    for grant in await CreditGrant.filter(account_id=ada.id):
        assert grant.remaining <= grant.credits
    assert await three_sums(ada.id) == (200, 200, 200)


async def test_concurrent_reservations_never_go_below_zero(ada: Account) -> None:
    """Spends and reservations together, more than there is: what there was is shared out, no more."""
    await granted(ada, 50)
    await granted(ada, 55, BEGIN + DAY)
    answers = await asyncio.gather(
        *(reserved(ada, 10, f"r{number}") for number in range(10)),
        *(spent(ada, 10, f"s{number}") for number in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Reserved | Spent) for answer in answers) == 10
    assert sum(isinstance(answer, InsufficientCredits) for answer in answers) == 10
    assert await three_sums(ada.id) == (5, 5, 5)


async def test_concurrent_reservations_with_one_key_reserve_once(ada: Account) -> None:
    await granted(ada, 100)
    answers = await asyncio.gather(*(reserved(ada, 10) for _ in range(8)))
    assert set(answers) == {Reserved("work", 10, BEGIN + SOON, 90)}


async def test_a_reservation_ends_once_under_concurrent_attempts(ada: Account) -> None:
    """A commit, a release and several sweeps in the same moment: one of them ends it."""
    await granted(ada, 100)
    await reserved(ada, 70)
    answers = await asyncio.gather(
        *(committed(ada, 50) for _ in range(3)),
        *(released(ada) for _ in range(3)),
        *(lapsed(ada, BEGIN + SOON) for _ in range(3)),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} <= {Spent, int, ReservationOver}
    assert await LedgerEntry.filter(account_id=ada.id, kind=EntryKind.RELEASE).count() == 1
    used = 50 if Spent(50, 50, "work") in answers else 0
    assert await three_sums(ada.id) == (100 - used,) * 3


# Any history at all


@dataclass(frozen=True)
class Grant:
    credits: int
    days: int | None
    rollover_cap: int


@dataclass(frozen=True)
class Spend:
    credits: int
    key: int


@dataclass(frozen=True)
class Reserve:
    credits: int
    key: int
    hours: int


@dataclass(frozen=True)
class Commit:
    credits: int
    key: int


@dataclass(frozen=True)
class Release:
    key: int


@dataclass(frozen=True)
class Wait:
    hours: int
    sweep: bool


Step = Grant | Spend | Reserve | Commit | Release | Wait

keys = st.integers(1, 4)
histories: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.builds(Grant, st.integers(0, 200), st.none() | st.integers(1, 4), st.sampled_from([0, 0, 50])),
        st.builds(Spend, st.integers(1, 150), keys),
        st.builds(Reserve, st.integers(1, 150), keys, st.integers(1, 96)),
        st.builds(Commit, st.integers(0, 150), keys),
        st.builds(Release, keys),
        st.builds(Wait, st.integers(1, 48), st.booleans()),
    ),
    min_size=3,
    max_size=16,
)


def test_after_any_history_the_three_sums_are_one(database_url: str) -> None:
    """S37: balance = sum of entries = what remains in live grants, never below zero, after each step."""
    with asyncio.Runner() as runner:
        opened = open_database(database_url)
        runner.run(opened.__aenter__())

        @hypothesis_settings(max_examples=25)
        @given(history=histories)
        def check(history: list[Step]) -> None:
            runner.run(_play(history))

        try:
            check()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def _play(history: list[Step]) -> None:
    at = BEGIN
    account = await an_account()
    for step in history:
        if isinstance(step, Wait):
            at += timedelta(hours=step.hours)
        before = await three_sums(account.id)
        first = await _answer(account, step, at)
        await _assert_sound(account)
        if isinstance(step, Grant | Wait):
            continue
        after = await three_sums(account.id)
        assert await _answer(account, step, at) == first, "the same again gives the same answer"
        assert await three_sums(account.id) == after, "and moves nothing"
        assert not isinstance(first, type) or after == before, "what is refused moves nothing"
    await lapsed(account, at + timedelta(days=5))
    assert not await Reservation.filter(account_id=account.id, state="held").exists()
    await _assert_sound(account)


async def _answer(account: Account, step: Step, at: datetime) -> object:
    """What one step answers; the kind of error where it is refused."""
    try:
        match step:
            case Grant(credits, days, cap):
                ends = at + timedelta(days=days) if days else None
                await granted(account, credits, ends, cap if ends else 0)
            case Spend(credits, key):
                return await spent(account, credits, f"{key}", at)
            case Reserve(credits, key, hours):
                return await reserved(account, credits, f"{key}", at, timedelta(hours=hours))
            case Commit(credits, key):
                return await committed(account, credits, f"{key}", at)
            case Release(key):
                return await released(account, f"{key}", at)
            case Wait(_, sweep) if sweep:
                await lapsed(account, at)
    except (Conflict, InsufficientCredits, InvalidInput, NotFound) as error:
        return type(error)
    return None


async def _assert_sound(account: Account) -> None:
    """One number, not below zero; no grant holds more than it gave; what is held is nowhere else."""
    balance, entered, live = await three_sums(account.id)
    assert balance == entered == live
    assert balance >= 0
    held = sum(row.credits for row in await Reservation.filter(account_id=account.id, state="held"))
    gone = dict.fromkeys(EntryKind, 0)
    for entry in await LedgerEntry.filter(account_id=account.id):
        gone[entry.kind] -= entry.credits
        assert entry.balance_after >= 0
    assert gone[EntryKind.RESERVE] + gone[EntryKind.RELEASE] == held
    grants = await CreditGrant.filter(account_id=account.id)
    for grant in grants:
        assert 0 <= grant.remaining <= grant.credits - grant.expired
    given = sum(grant.credits for grant in grants)
    assert given == balance + held + gone[EntryKind.SPEND] + gone[EntryKind.EXPIRE]
