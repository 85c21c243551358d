"""Makes the moves that backends ask for, many in one transaction, each with an answer of its own.

Those that arrive while a transaction is under way share the next one. First, without waiting for a lock,
with those of other accounts: on PostgreSQL in two statements, on SQLite in two calls of the connection's
thread, one that reads and one that writes what has not changed since. Where that cannot make a move (another
process changes the account, its key was used, a grant has to be ended first), it is made on the locked
account, with others of that account.

That a key moves credits once is the database's, whatever happens here. A caller that gives up before its turn
has moved nothing; one that gives up later, or whose process dies, repeats the key and gets the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from paidup.credits import account_states, account_writes, ledger
from paidup.credits.requested_moves import (
    Answer,
    Move,
    Moved,
    Spend,
    may_be_short,
    spend_reference,
)
from paidup.db.connection import repeatable, storage_errors, write_transaction
from paidup.db.models import Account
from paidup.errors import OutcomeUnknown, PaidupError, StorageUnavailable
from paidup.runtime.batching import BackgroundBatcher, BatchExecutor

MAX_ITEMS = 100
"""Moves in one transaction."""
MAX_WAITING = 1_000
"""Moves that wait for one. The next is refused."""
BESIDE_AFTER_S = 1.0
"""A transaction that takes longer, on a connection that does not answer, keeps no later moves waiting."""
WITHIN_S = 10.0
"""For how long a caller waits in all."""


class _Left(msgspec.Struct, frozen=True):
    """A move that is not made yet. `locked`: it may be made with others, once its account is locked."""

    move: Move
    locked: bool


class _Account:
    """The moves of one account that need its lock, and how many callers wait for theirs."""

    def __init__(self, do: Callable[[Sequence[_Left]], Awaitable[Sequence[Answer]]]) -> None:
        self.make = BatchExecutor(do, MAX_ITEMS, MAX_WAITING)
        self.callers = 0


class CreditMoves:
    """`publish` sends an account's new balance to its pages; callers do not wait for it. It never raises."""

    def __init__(self, publish: Callable[[Account], Awaitable[None]], within_s: float = WITHIN_S) -> None:
        self._publish = publish
        self._within_s = within_s
        self._together = BatchExecutor(self._make_together, MAX_ITEMS, MAX_WAITING, BESIDE_AFTER_S)
        self._accounts: dict[int, _Account] = {}
        self._changed = BackgroundBatcher(self._publish_all, every_s=0)

    async def __call__(self, move: Move) -> Moved:
        """Make the move, once per key. Raises what `reservations` raises for it, and StorageUnavailable."""
        try:
            async with asyncio.timeout(self._within_s):
                # While others of its account wait for the lock, it would find the account locked.
                waits = move.account_id in self._accounts
                answer = _Left(move, locked=True) if waits else await self._together(move)
                if isinstance(answer, _Left):
                    answer = await self._in_turn(answer)
        except TimeoutError:
            raise OutcomeUnknown(f"credits were not moved within {self._within_s:g} s") from None
        except asyncio.QueueFull:
            raise StorageUnavailable(f"{MAX_WAITING} moves of credits are waiting") from None
        if isinstance(answer, PaidupError):
            raise answer
        return answer

    async def close(self) -> None:
        """End what is under way. No caller may be waiting any more."""
        await self._together.close()
        for account in tuple(self._accounts.values()):
            await account.make.close()

    async def _in_turn(self, left: _Left) -> Answer:
        number = left.move.account_id
        account = self._accounts.setdefault(number, _Account(self._make_locked))
        account.callers += 1
        try:
            return await account.make(left)
        finally:
            account.callers -= 1
            if not account.callers:
                self._accounts.pop(number, None)

    @repeatable
    async def _make_together(self, moves: Sequence[Move]) -> Sequence[Answer | _Left]:
        accounts = {move.account_id for move in moves}
        with storage_errors():
            made = await _make(moves, accounts)
        self._tell(made.changed)
        return made.answers

    async def _make_locked(self, asked: Sequence[_Left]) -> Sequence[Answer]:
        """Moves of one account: as many as possible by one transaction, then each by its own."""
        answers: dict[int, Answer | _Left] = dict(enumerate(asked))
        together = [number for number, left in enumerate(asked) if left.locked]
        try:
            if together:
                made = await self._make_on_locked([asked[number].move for number in together])
                answers |= dict(zip(together, made, strict=True))
            for number, answer in answers.items():
                if isinstance(answer, _Left):
                    answers[number] = await self._make_alone(answer.move)
        except StorageUnavailable as error:
            # The answer of the rest. Tried each by itself, they would wait for the lock on a connection each.
            return [error if isinstance(answer, _Left) else answer for answer in answers.values()]
        return [answer for answer in answers.values() if not isinstance(answer, _Left)]

    @repeatable
    async def _make_on_locked(self, moves: Sequence[Move]) -> Sequence[Answer | _Left]:
        async with write_transaction():
            await ledger.lock_account(moves[0].account_id)
            made = await _make(moves, [moves[0].account_id])
            if any(isinstance(answer, _Left) and answer.locked for answer in made.answers):
                made = await _make(moves, [moves[0].account_id], read_keys=True)  # one was used before
        self._tell(made.changed)
        return made.answers

    @repeatable
    async def _make_alone(self, move: Move) -> Answer:
        """A refusal takes back what was done for it: an expiry that was due is made again later."""
        try:
            async with write_transaction():
                account = await ledger.lock_account(move.account_id)
                before = account.version
                result = await move.perform(account)
        except StorageUnavailable:
            raise
        except PaidupError as refusal:
            return refusal
        changed = account.version != before
        if changed:
            self._tell([account])
        return Moved(result, changed)

    def _tell(self, changed: Sequence[Account]) -> None:
        for account in changed:
            self._changed.add(account)

    async def _publish_all(self, accounts: Sequence[Account]) -> None:
        newest = {account.id: account for account in accounts}
        await asyncio.gather(*(self._publish(account) for account in newest.values()))


class _Made(msgspec.Struct, frozen=True):
    """An answer for each move, and the accounts that have changed."""

    answers: list[Answer | _Left]
    changed: list[Account]


async def _make(moves: Sequence[Move], accounts: Collection[int], read_keys: bool = False) -> _Made:
    """Make those moves of these accounts that need nothing else to be done first, in their order.

    `read_keys`: read which keys were used, or one of them lets no move of its account be made.
    """
    keys = {move.key for move in moves if not isinstance(move, Spend)}
    if keys:
        states = await account_states.read_reserving(accounts, keys)
    else:
        states = await account_states.read_states(accounts)
    by_account: dict[int, list[Move]] = {}
    for move in moves:
        by_account.setdefault(move.account_id, []).append(move)
    await _read_more(states, by_account, read_keys, knows_held=bool(keys))
    decided: list[Answer | _Left] = []
    for move in moves:
        state = states.get(move.account_id)
        if state is None or state.has_changed or state.account.merged_into is not None:
            decided.append(_Left(move, locked=state is None or state.has_changed))
        else:
            decided.append(move.decide(state) or _Left(move, locked=False))
    changed = {id: state for id, state in states.items() if not state.writes.empty}
    written = await account_writes.write_states(changed.values())
    lost = changed.keys() - written
    answers = [
        _Left(move, locked=not read_keys) if move.account_id in lost else answer
        for move, answer in zip(moves, decided, strict=True)
    ]
    return _Made(answers, [changed[id].account for id in sorted(written)])


async def _read_more(
    states: dict[int, account_states.AccountState],
    by_account: dict[int, list[Move]],
    read_keys: bool,
    knows_held: bool,
) -> None:
    """Read what a refusal of a spend depends on. `read_keys`: which keys were used, of all spends."""
    asked = {id: by_account[id] for id in states}
    short = [state for id, state in states.items() if may_be_short(state.account, asked[id])]
    known = list(states.values()) if read_keys else short
    spends = [move for state in known for move in asked[state.account.id] if isinstance(move, Spend)]
    if spends:
        await account_states.read_spent(known, [spend_reference(move) for move in spends])
    if short and not knows_held:
        await account_states.read_held(short)
