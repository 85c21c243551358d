"""Spends and reservations that are made together: each has an answer of its own, and each key counts once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paidup.credits import account_states, ledger, move_batches, reservations
from paidup.credits.account_states import AccountState
from paidup.credits.move_batches import CreditMoves
from paidup.credits.requested_moves import Commit, Move, Moved, Release, Reserve, Spend
from paidup.credits.reversals import ReversalNews
from paidup.db.connection import connection, open_database, write_transaction
from paidup.db.models import (
    Account,
    CreditGrant,
    EntryKind,
    Invoice,
    LedgerEntry,
    Reservation,
    Reversal,
    ReversalKind,
)
from paidup.db.outbound_models import OutboundEvent
from paidup.db.postgres import Timeouts
from paidup.db.unit_accounts import in_unit
from paidup.domain.catalog import Catalogue
from paidup.errors import (
    InsufficientCredits,
    KeyReused,
    NotFound,
    OutcomeUnknown,
    PaidupError,
    StorageUnavailable,
)
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.runtime.metrics import Metrics
from tests.support.factories import an_account, granted, ignore_balance, three_sums
from tests.support.statement_plans import growing_tables
from tests.support.waiting import wait_until

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
DAY = timedelta(days=1)
ON_POSTGRES = pytest.mark.parametrize("module_database_url", ["postgres"], indirect=True)
"""SQLite has one lock for all, under which it writes."""


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has accounts of its own."""
    return module_database_url


@pytest.fixture
def moves(database: None, patient: None) -> CreditMoves:
    return CreditMoves(ignore_balance)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, what a test holds is waited for."""
    monkeypatch.setattr(move_batches, "BESIDE_AFTER_S", 60.0)


def spend(account: Account, credits: int, key: str, at: datetime = BEGIN) -> Spend:
    return Spend(account.id, "", credits, key, at)


def reserve(account: Account, credits: int, key: str, at: datetime = BEGIN) -> Reserve:
    return Reserve(account.id, "", credits, key, at + DAY, at)


class Gate:
    """Holds each transaction of moves while it is closed, and remembers how many moves each had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.sizes = asyncio.Event(), list[int]()
        make = move_batches._make

        async def held(moves: Sequence[Move], *arguments: Any, **named: Any) -> Any:
            self.sizes.append(len(moves))
            await self.open.wait()
            return await make(moves, *arguments, **named)

        monkeypatch.setattr(move_batches, "_make", held)

    async def ask(self, moves: CreditMoves, *asked: Move) -> list[asyncio.Task[Moved]]:
        """The first of them is under way, the others wait for the next transaction."""
        tasks = []
        for move in asked:
            tasks.append(asyncio.create_task(moves(move)))
            await wait_until(lambda: self.sizes)
        await asyncio.sleep(0)
        return tasks

    async def answers(self, moves: CreditMoves, *asked: Move) -> list[Any]:
        tasks = await self.ask(moves, *asked)
        self.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, patient: None) -> Gate:
    return Gate(monkeypatch)


def shown(answers: Sequence[Any]) -> list[Any]:
    """The balance after each, or its refusal's type."""
    return [each.result.balance if isinstance(each, Moved) else type(each) for each in answers]


async def test_moves_that_come_together_are_one_transaction(
    moves: CreditMoves, ada: Account, gate: Gate
) -> None:
    """In their order, each with the balance after it, those of other accounts among them."""
    bob = await an_account("bob")
    await granted(ada, 100)
    await granted(bob, 50)
    asked: list[Move] = [spend(ada, 10, "a"), spend(bob, 1, "a"), reserve(ada, 20, "b"), spend(ada, 30, "c")]
    answers = await gate.answers(moves, spend(ada, 1, "first"), *asked)
    assert (shown(answers), gate.sizes) == ([99, 89, 49, 69, 39], [1, 4])
    assert await three_sums(ada.id) == (39, 39, 39)
    assert await three_sums(bob.id) == (49, 49, 49)
    account = await Account.get(id=ada.id)
    assert (account.version, account.held) == (5, 20)
    entries = await LedgerEntry.filter(account_id=ada.id).order_by("id")
    assert [entry.balance_after for entry in entries] == [100, 99, 89, 69, 39]


async def test_reservations_of_many_end_together(moves: CreditMoves, ada: Account, gate: Gate) -> None:
    bob = await an_account("bob")
    for account in (ada, bob):
        await granted(account, 100)
        async with write_transaction():
            locked = await ledger.lock_account(account.id)
            await reserve(account, 40, "a").perform(locked)
            await reserve(account, 30, "b").perform(locked)
    ends = [Commit(each.id, "a", 10, BEGIN, "work") for each in (ada, bob)]
    answers = await gate.answers(moves, ends[0], ends[1], Release(ada.id, "b", BEGIN), ends[0])
    assert (shown(answers), gate.sizes[:2]) == ([60, 60, 90, 60], [1, 3])
    assert await three_sums(ada.id) == (90, 90, 90)
    account = await Account.get(id=ada.id)
    assert (account.held, (await Account.get(id=bob.id)).held) == (0, 30)
    spent = await LedgerEntry.filter(account_id=ada.id, kind=EntryKind.SPEND)
    assert [(entry.credits, entry.reason) for entry in spent] == [(-10, "work")]


async def test_each_unit_has_its_own_reservations(moves: CreditMoves, ada: Account) -> None:
    await granted(ada, 100)
    invoice = await granted(ada, 0)
    async with write_transaction():
        tokens = in_unit(await ledger.lock_account(ada.id), "tokens")
        await ledger.grant(tokens, invoice.id, ledger.GrantTerms(50, installment=2))
    for unit, credits in (("", 20), ("tokens", 30), ("", 1)):
        await moves(Reserve(ada.id, unit, credits, f"{credits}", BEGIN + DAY, BEGIN))
    account = await Account.get(id=ada.id)
    assert (account.held, in_unit(account, "tokens").held) == (21, 30)
    for key in ("20", "30"):
        await moves(Commit(ada.id, key, 5, BEGIN))
    account = await Account.get(id=ada.id)
    assert (account.held, in_unit(account, "tokens").held) == (1, 0)


async def test_a_refused_one_harms_no_other_of_its_batch(
    moves: CreditMoves, ada: Account, gate: Gate
) -> None:
    await granted(ada, 100)
    asked: list[Move] = [
        *(spend(ada, 200, "too-many"), spend(ada, 10, "a"), spend(ada, 6, "first")),
        *(Commit(ada.id, "none", 1, BEGIN), reserve(ada, 86, "too-many"), reserve(ada, 20, "b")),
    ]
    answers = await gate.answers(moves, spend(ada, 5, "first"), *asked)
    assert [type(answer) for answer in answers] == [
        *(Moved, InsufficientCredits, Moved, KeyReused, NotFound, InsufficientCredits, Moved)
    ]
    assert await three_sums(ada.id) == (65, 65, 65)


async def test_a_key_that_is_repeated_within_a_batch_moves_credits_once(
    moves: CreditMoves, ada: Account, gate: Gate
) -> None:
    """With the first one's answer; and with another amount it is refused."""
    await granted(ada, 100)
    asked: list[Move] = [*[spend(ada, 10, "a")] * 3, *[reserve(ada, 20, "a")] * 2, spend(ada, 11, "a")]
    answers = await gate.answers(moves, spend(ada, 1, "first"), *asked)
    assert shown(answers) == [99, 89, 89, 89, 69, 69, KeyReused]
    assert [answer.changed for answer in answers[1:6]] == [True, False, False, True, False]
    assert await three_sums(ada.id) == (69, 69, 69)


async def test_a_move_that_comes_too_late_is_not_made(
    moves: CreditMoves, ada: Account, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch across a deadline: what has not begun by then is left out, and the key can be sent again."""
    await granted(ada, 100)
    hasty = CreditMoves(ignore_balance, within_s=0.05)
    hasty._together = moves._together
    tasks = await gate.ask(moves, spend(ada, 1, "first"), spend(ada, 2, "second"))
    with pytest.raises(OutcomeUnknown):
        await hasty(spend(ada, 4, "late"))
    tasks += [asyncio.create_task(moves(spend(ada, 8, "gone")))]
    await asyncio.sleep(0)
    tasks[-1].cancel()
    gate.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert shown(answers) == [99, 97, asyncio.CancelledError]
    assert gate.sizes == [1, 1]
    assert shown([await moves(spend(ada, 4, "late"))]) == [93]


async def test_a_caller_that_gives_up_halfway_finds_its_spend_made(
    moves: CreditMoves, ada: Account, gate: Gate
) -> None:
    await granted(ada, 100)
    (task,) = await gate.ask(moves, spend(ada, 10, "a"))
    task.cancel()
    gate.open.set()
    assert shown([await moves(spend(ada, 10, "a"))]) == [90]
    assert await three_sums(ada.id) == (90, 90, 90)


async def test_the_queue_is_bounded(ada: Account, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    await granted(ada, 100)
    monkeypatch.setattr(move_batches, "MAX_WAITING", 2)
    moves = CreditMoves(ignore_balance)
    answers = await gate.answers(moves, *(spend(ada, 1, f"{number}") for number in range(4)))
    assert shown(answers) == [99, 98, 97, StorageUnavailable]


async def test_what_is_refused_changes_nothing(moves: CreditMoves, ada: Account) -> None:
    """A grant that has ended, and a reservation that is due, end with the next move that is made."""
    await granted(ada, 50, BEGIN + DAY)
    await granted(ada, 30)
    await moves(reserve(ada, 10, "work"))
    with pytest.raises(InsufficientCredits) as refused:
        await moves(spend(ada, 31, "a", BEGIN + 2 * DAY))
    assert refused.value.balance == 30
    assert await three_sums(ada.id) == (70, 70, 70)
    assert shown([await moves(spend(ada, 30, "b", BEGIN + 2 * DAY))]) == [0]


async def test_what_has_to_be_done_first_is_done_on_the_locked_account(
    moves: CreditMoves, ada: Account
) -> None:
    """A grant that has ended, a reservation that is due, and a balance that becomes low."""
    await granted(ada, 50, BEGIN + DAY)
    await granted(ada, 30)
    assert shown([await moves(reserve(ada, 70, "work"))]) == [10]
    later = BEGIN + 2 * DAY
    assert shown([await moves(spend(ada, 25, "a", later))]) == [5], "of the 20 that the reservation had taken"
    assert await three_sums(ada.id) == (5, 5, 5)


async def test_only_credits_of_a_disputed_payment_wait_for_the_lock(
    moves: CreditMoves, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S25: what returns to them is frozen. Credits of the account's other payments return with many."""
    await granted(ada, 100)
    await moves(reserve(ada, 60, "other"))
    disputed = await granted(ada, 100, BEGIN + DAY)
    await moves(reserve(ada, 60, "disputed"))
    disputed.settled_at, disputed.total_minor, disputed.has_reversals = BEGIN, 2900, True
    await disputed.save()
    dispute: dict[str, Any] = {"kind": ReversalKind.DISPUTE, "status": "needs_response", "amount_minor": 2900}
    await Reversal.create(id=f"dp_{disputed.id}", invoice_id=disputed.id, changed_at=BEGIN, **dispute)
    alone: list[str] = []
    perform = Release.perform

    async def noted(move: Release, account: Account) -> object:
        alone.append(move.key)
        return await perform(move, account)

    monkeypatch.setattr(Release, "perform", noted)
    assert shown([await moves(Release(ada.id, key, BEGIN)) for key in ("other", "disputed")]) == [140, 100]
    assert alone == ["disputed"]
    given = await CreditGrant.filter(account_id=ada.id).order_by("id")
    assert [(grant.remaining, grant.frozen) for grant in given] == [(100, 0), (0, 100)]
    assert await three_sums(ada.id) == (100, 100, 100)


async def test_an_event_of_a_batch_is_written_with_it(moves: CreditMoves, ada: Account, gate: Gate) -> None:
    await granted(ada, 100)
    await Account.filter(id=ada.id).update(low_balance=50)
    await OutboundEvent.filter(account_id=ada.id).delete()
    await gate.answers(moves, spend(ada, 40, "a"), spend(ada, 20, "b"), spend(ada, 40, "c"))
    told = await OutboundEvent.filter(account_id=ada.id).order_by("id")
    assert [(event.type, event.balance, event.version) for event in told] == [
        ("balance.low", 40, 3),
        ("balance.depleted", 0, 4),
    ]


@pytest.mark.parametrize("module_database_url", ["sqlite"], indirect=True)
async def test_a_move_reads_no_table_that_grows(moves: CreditMoves, ada: Account) -> None:
    """SQLite looks for what refers to a key that is written: for a grant's, through all entries."""
    await granted(ada, 100)
    asked: list[Move] = [spend(ada, 1, "a"), reserve(ada, 2, "b"), reserve(ada, 2, "c")]
    client: Any = connection()
    ran: list[str] = []
    await client._connection.set_trace_callback(ran.append)
    for move in (*asked, Commit(ada.id, "b", 1, BEGIN), Release(ada.id, "c", BEGIN)):
        await moves(move)
    await client._connection.set_trace_callback(None)
    plans = [
        step["detail"]
        for statement in ran
        if not statement.startswith(("BEGIN", "COMMIT"))
        for step in await client.execute_query_dict(f"EXPLAIN QUERY PLAN {statement}")
    ]
    assert any(plan.startswith("SEARCH credit_grants USING INTEGER PRIMARY KEY") for plan in plans)
    assert not [plan for plan in plans if re.match(f"SCAN ({'|'.join(growing_tables())})", plan)]


@pytest.mark.parametrize("module_database_url", ["sqlite"], indirect=True)
async def test_a_move_is_two_calls_of_sqlites_thread(
    moves: CreditMoves, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for a turn of the event loop, with all that the loop has to do."""
    await granted(ada, 100)
    client: Any = connection()
    execute, calls = client._connection._execute, list[Any]()

    async def noted(*call: Any) -> Any:
        calls.append(call)
        return await execute(*call)

    monkeypatch.setattr(client._connection, "_execute", noted)
    for move in (spend(ada, 1, "a"), reserve(ada, 2, "b"), Commit(ada.id, "b", 1, BEGIN)):
        calls.clear()
        await moves(move)
        assert len(calls) == 2


async def test_each_changed_balance_is_published(ada: Account, gate: Gate) -> None:
    """Once for each transaction, with the newest."""
    told = []

    async def publish(account: Account) -> None:
        told.append((account.balance, account.version))

    moves = CreditMoves(publish)
    await granted(ada, 100)
    again = spend(ada, 1, "a")
    await gate.answers(moves, again, spend(ada, 1, "b"), spend(ada, 1, "c"))
    await wait_until(lambda: told[-1:] == [(97, 4)])
    await moves(again)
    await moves(spend(ada, 1, "d"))
    await wait_until(lambda: told[-1:] == [(96, 5)])
    assert len(told) <= 3


@asynccontextmanager
async def locked_elsewhere(account: Account) -> AsyncIterator[None]:
    """Another transaction has locked the account."""
    has_locked, may_end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with write_transaction():
            await ledger.lock_account(account.id)
            has_locked.set()
            await may_end.wait()

    holding = asyncio.create_task(hold())
    await has_locked.wait()
    try:
        yield
    finally:
        may_end.set()
        await holding


@ON_POSTGRES
async def test_a_locked_account_keeps_no_other_waiting(moves: CreditMoves, ada: Account, gate: Gate) -> None:
    """Its own moves wait for the lock together."""
    gate.open.set()
    bob = await an_account("bob")
    await granted(ada, 100)
    await granted(bob, 100)
    async with locked_elsewhere(ada):
        asked = await gate.ask(moves, *(spend(ada, 1, f"{number}") for number in range(5)))
        assert shown([await moves(spend(bob, 1, "a"))]) == [99]
        assert not any(each.done() for each in asked)
    assert sorted(shown(await asyncio.gather(*asked))) == [95, 96, 97, 98, 99]


async def test_a_spend_whose_deadline_passes_at_the_lock_counts_once(ada: Account) -> None:
    await granted(ada, 100)
    hasty = CreditMoves(ignore_balance, within_s=0.05)
    async with locked_elsewhere(ada):
        with pytest.raises(OutcomeUnknown):
            await hasty(spend(ada, 10, "a"))
    assert shown([await CreditMoves(ignore_balance)(spend(ada, 10, "a"))]) == [90]
    assert await three_sums(ada.id) == (90, 90, 90)


async def other_spend(account: Account) -> None:
    async with write_transaction():
        await spend(account, 60, "other").perform(await ledger.lock_account(account.id))


async def other_grant(account: Account) -> None:
    await granted(account, 30)


async def same_spend(account: Account) -> None:
    async with write_transaction():
        await spend(account, 50, "mine").perform(await ledger.lock_account(account.id))


async def end_grants(account: Account) -> None:
    """Leaves the account's row as it is."""
    async with write_transaction():
        await ledger.lock_account(account.id)
        await CreditGrant.filter(account_id=account.id).update(expires_at=BEGIN)


def change_after(
    monkeypatch: pytest.MonkeyPatch, reads: str, change: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Once, something is changed after this function of `account_states` has read."""
    read, changes = getattr(account_states, reads), [change]

    async def read_then_changed(*arguments: Any) -> dict[int, AccountState]:
        states: dict[int, AccountState] = await read(*arguments)
        while changes:
            await asyncio.create_task(changes.pop()())
        return states

    monkeypatch.setattr(account_states, reads, read_then_changed)


@pytest.mark.parametrize(
    ("meanwhile", "answer"),
    [
        *((other_spend, InsufficientCredits), (other_grant, 80)),
        *((same_spend, 50), (end_grants, InsufficientCredits)),
    ],
)
async def test_what_another_process_changes_meanwhile_is_seen(
    moves: CreditMoves,
    ada: Account,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Account], Coroutine[Any, Any, None]],
    answer: Any,
) -> None:
    """Between reading without a lock and writing."""
    await granted(ada, 100)
    change_after(monkeypatch, "read_states", partial(meanwhile, ada))
    answers = await asyncio.gather(moves(spend(ada, 50, "mine")), return_exceptions=True)
    assert shown(answers) == [answer]
    balance, entries, live = await three_sums(ada.id)
    assert balance == entries == live


async def test_a_reservation_does_not_end_by_a_statement_that_leaves_its_account_out(
    moves: CreditMoves, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since the account has changed between reading and writing: then what it held would be lost."""
    await granted(ada, 100)
    await moves(reserve(ada, 60, "work"))
    change_after(monkeypatch, "read_reserving", partial(other_grant, ada))
    assert shown([await moves(Commit(ada.id, "work", 10, BEGIN))]) == [120]
    assert await three_sums(ada.id) == (120, 120, 120)


async def ignore(_: Any) -> bool:
    return True


async def dispute(invoice: Invoice) -> None:
    news = ReversalNews(f"du_{invoice.id}", ReversalKind.DISPUTE, invoice.id, 2900, "needs_response", BEGIN)
    settlement = Settlement(Catalogue(()), {}, ignore, ignore_balance, Timeline(), Metrics())
    await settlement.reverse(news)


@pytest.mark.parametrize("frozen", [90, 100], ids=["committed", "released"])
async def test_what_a_reservation_returns_is_frozen_where_a_dispute_begins_meanwhile(
    moves: CreditMoves, ada: Account, monkeypatch: pytest.MonkeyPatch, frozen: int
) -> None:
    """S25: between reading without a lock and writing."""
    invoice = await granted(ada, 100)
    invoice.settled_at, invoice.total_minor, invoice.subscription = BEGIN, 2900, None
    await invoice.save()
    await moves(reserve(ada, 60, "work"))
    change_after(monkeypatch, "read_reserving", partial(dispute, invoice))
    await moves(Commit(ada.id, "work", 10, BEGIN) if frozen == 90 else Release(ada.id, "work", BEGIN))
    (grant,) = await CreditGrant.filter(account_id=ada.id)
    assert (grant.remaining, grant.frozen) == (0, frozen)
    assert await three_sums(ada.id) == (0, 0, 0)


async def test_a_reservation_that_another_process_expires_meanwhile_can_be_spent(
    moves: CreditMoves, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the balance, without its credits, and reading what is reserved, without it."""
    await granted(ada, 10)
    await moves(reserve(ada, 10, "work"))
    later, read = BEGIN + 2 * DAY, account_states.read_held

    async def expired_then_read(states: Collection[AccountState]) -> None:
        async with write_transaction():
            await reservations.expire_due(await ledger.lock_account(ada.id), later)
        await read(states)

    monkeypatch.setattr(account_states, "read_held", expired_then_read)
    assert shown([await moves(spend(ada, 10, "a", later))]) == [0]


async def test_a_reservation_of_the_same_batch_that_is_due_returns_its_credits(
    moves: CreditMoves, ada: Account, gate: Gate
) -> None:
    await granted(ada, 10)
    soon = BEGIN + timedelta(seconds=1)
    asked: list[Move] = [Reserve(ada.id, "", 9, "work", soon, BEGIN), spend(ada, 9, "a", soon)]
    assert shown(await gate.answers(moves, spend(ada, 1, "first"), *asked)) == [9, 0, 0]


@ON_POSTGRES
async def test_a_connection_that_does_not_answer_keeps_no_later_moves_waiting(
    ada: Account, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await an_account("bob")
    await granted(ada, 100)
    await granted(bob, 100)
    monkeypatch.setattr(move_batches, "BESIDE_AFTER_S", 0.01)
    moves = CreditMoves(ignore_balance)
    (hanging,) = await gate.ask(moves, spend(ada, 1, "a"))
    monkeypatch.undo()
    assert shown([await moves(spend(bob, 1, "a")), await moves(spend(ada, 2, "b"))]) == [99, 98]
    assert not hanging.done()
    gate.open.set()
    assert shown([await hanging]) == [97]


@ON_POSTGRES
async def test_a_move_is_two_statements_that_keep_their_plans(module_database_url: str) -> None:
    """Each is planned five times at first: https://www.postgresql.org/docs/current/sql-prepare.html"""
    prepared = (
        "SELECT statement, custom_plans, generic_plans > 0 FROM pg_prepared_statements"
        # asyncpg's own; and the suite explains a statement where a process first makes it
        " WHERE NOT statement ~ 'typeinfo_tree|jit|^EXPLAIN '"
    )
    async with open_database(module_database_url, pool=1):
        account, moves = await an_account(), CreditMoves(ignore_balance)
        await granted(account, 100)
        _, before = await connection().execute_query(prepared)
        for key in map(str, range(9)):
            for move in (spend(account, 1, key), reserve(account, 2, key), Commit(account.id, key, 1, BEGIN)):
                assert (await moves(move)).changed
        _, found = await connection().execute_query(prepared)
    known = {each[0] for each in before} | {prepared}
    used = [(made, kept) for statement, made, kept in map(tuple, found) if statement not in known]
    assert used == [(5, True)] * 5, "two read: one for spends, one for the rest; and three write"


@ON_POSTGRES
async def test_an_account_that_stays_locked_takes_one_connection(
    module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once the wait for its lock has timed out: its moves do not wait for it again, each by itself."""
    async with open_database(module_database_url, timeouts=Timeouts(lock_s=0.2)):
        account, moves, waiting = await an_account(), CreditMoves(ignore_balance), list[int]()
        await granted(account, 100)
        lock, most = ledger.lock_account, 0

        async def counted(number: int) -> Account:
            nonlocal most
            waiting.append(number)
            most = max(most, len(waiting))
            try:
                return await lock(number)
            finally:
                waiting.remove(number)

        async with locked_elsewhere(account):
            monkeypatch.setattr(ledger, "lock_account", counted)
            asked = [moves(spend(account, 1, f"{number}")) for number in range(9)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        assert (shown(answers), most) == ([StorageUnavailable] * 9, 1)
        assert shown([await moves(spend(account, 1, "8"))]) == [99]


one_of = st.one_of(
    st.builds(lambda key, credits: ("spend", f"s{key}", credits), st.integers(0, 5), st.integers(1, 40)),
    st.builds(lambda key, credits: ("reserve", f"r{key}", credits), st.integers(0, 3), st.integers(1, 40)),
    st.builds(lambda key, credits: ("commit", f"r{key}", credits), st.integers(0, 3), st.integers(0, 40)),
    st.builds(lambda key, credits: ("release", f"r{key}", credits), st.integers(0, 3), st.just(0)),
)


def move_of(account: Account, asked: tuple[str, str, int]) -> Move:
    kind, key, credits = asked
    match kind:
        case "spend":
            return spend(account, credits, key)
        case "reserve":
            return reserve(account, credits, key)
        case "commit":
            return Commit(account.id, key, credits, BEGIN)
        case _:
            return Release(account.id, key, BEGIN)


def test_any_moves_at_once_in_two_processes_leave_sound_books(module_database_url: str) -> None:
    """Whatever comes in whatever order, twice: a key has one result, and no credit is lost or made."""
    with asyncio.Runner() as runner:
        opened = open_database(module_database_url)
        runner.run(opened.__aenter__())

        @hypothesis_settings(max_examples=15)
        @given(
            asked=st.lists(one_of, min_size=2, max_size=16), grants=st.lists(st.integers(1, 60), min_size=1)
        )
        def check(asked: list[tuple[str, str, int]], grants: list[int]) -> None:
            runner.run(_at_once(asked, grants))

        try:
            check()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def _at_once(asked: list[tuple[str, str, int]], grants: list[int]) -> None:
    account, processes = await an_account(), [CreditMoves(ignore_balance) for _ in range(2)]
    for credits in grants:
        await granted(account, credits)
    calls = [process(move_of(account, each)) for each in asked for process in processes]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    unexpected = [each for each in answers if not isinstance(each, Moved | PaidupError)]
    assert not unexpected
    row = await Account.get(id=account.id)
    assert row.balance >= 0
    assert await three_sums(account.id) == (row.balance,) * 3
    reserved = await Reservation.filter(account_id=account.id, state="held")
    assert row.held == sum(each.credits for each in reserved)
    for each, twice in zip(asked, zip(answers[::2], answers[1::2], strict=True), strict=True):
        made = [answer.result for answer in twice if isinstance(answer, Moved)]
        # Its result is for good; where a commit used nothing, the balance that it tells is the current one.
        if each[0] == "spend" or (each[0] == "commit" and each[2]):
            again = [(await processes[0](move_of(account, each))).result for _ in made[:1]]
            assert len(set(map(repr, [*made, *again]))) <= 1
