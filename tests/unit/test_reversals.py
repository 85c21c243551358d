"""Reversals: the proportion (pure), and the ledger under any history of them, on both databases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import stripe
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paidup.credits import account_states, ledger, reservations
from paidup.credits import grants as granting
from paidup.credits.account_states import AccountState
from paidup.credits.move_batches import CreditMoves
from paidup.credits.requested_moves import Commit
from paidup.credits.reversals import ReversalNews
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import (
    Account,
    CreditGrant,
    EntryKind,
    GrantState,
    Invoice,
    LedgerEntry,
    Reservation,
    Reversal,
)
from paidup.db.models import ReversalKind as Kind
from paidup.domain.catalog import AfterRefund
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.domain.plans_toml import parse_catalogue
from paidup.domain.reversals import Claim, Effect, ReversalFacts, claim, reason
from paidup.errors import InsufficientCredits, KeyReused, ReservationOver
from paidup.payments.outcomes import Outcome
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from paidup.settings import PACKAGED_PLANS
from tests.support.factories import an_account, granted, ignore_balance, three_sums
from tests.support.sdk_shapes import fields, words

TOTAL = 1000
"""What each invoice of these tests asked for, in minor units."""

LIVES = {
    Kind.REFUND: (
        ("pending", "succeeded"),
        ("pending", "requires_action", "succeeded"),
        ("pending", "requires_action", "canceled"),
        ("succeeded", "failed"),
        ("pending", "succeeded", "failed"),
    ),
    Kind.DISPUTE: (
        ("warning_needs_response", "warning_under_review", "warning_closed"),
        ("warning_needs_response", "needs_response", "under_review", "won"),
        ("needs_response", "under_review", "lost"),
        ("needs_response", "won"),
        ("needs_response", "lost", "appeal_needs_response", "appeal_under_review", "won"),
        ("needs_response", "under_review", "lost", "appeal_under_review", "lost"),
    ),
    Kind.CREDIT_NOTE: (("issued",), ("issued", "void")),
}
"""How a refund, a dispute or a credit note may go, as Stripe has it."""

GONE = {("refund", s) for s in ("pending", "requires_action", "succeeded")} | {
    ("dispute", "lost"),
    ("dispute", "appeal_needs_response"),
    ("dispute", "appeal_under_review"),
    ("credit_note", "issued"),
}
STATUSES = sorted({(str(kind), status) for kind, lives in LIVES.items() for life in lives for status in life})

facts = st.builds(
    lambda known, amount: ReversalFacts(known[0], known[1], amount),
    st.sampled_from(STATUSES),
    st.integers(0, 1500),
)
several = st.lists(facts, max_size=6)
credits = st.integers(0, 5000)
totals = st.integers(0, 3000)


# The proportion


@given(granted=credits, total=totals, known=several, seed=st.randoms(use_true_random=False))
def test_the_order_of_reversals_changes_nothing(
    granted: int, total: int, known: list[ReversalFacts], seed: random.Random
) -> None:
    """S25: the same refunds and disputes, in whichever order, come to the same."""
    shuffled = seed.sample(known, len(known))
    assert claim(granted, total, shuffled) == claim(granted, total, known)


@given(granted=credits, offset=credits, total=totals, known=several)
def test_never_more_is_taken_than_was_granted(
    granted: int, offset: int, total: int, known: list[ReversalFacts]
) -> None:
    """S25: refunds, a dispute and a note may overlap; together they take no more than there was."""
    due = claim(granted, total, known, offset)
    assert min(due.reversed, due.frozen) >= 0
    assert due.reversed + due.frozen <= granted


@given(granted=credits, total=totals, known=several, more=facts)
def test_reversing_more_money_never_gives_credits(
    granted: int, total: int, known: list[ReversalFacts], more: ReversalFacts
) -> None:
    """S25."""
    before, after = claim(granted, total, known), claim(granted, total, [*known, more])
    assert after.reversed >= before.reversed
    assert after.reversed + after.frozen >= before.reversed + before.frozen
    assert after.fully_reversed >= before.fully_reversed


@given(granted=credits, total=totals, known=several)
def test_an_invoice_is_fully_reversed_once_all_its_money_is(
    granted: int, total: int, known: list[ReversalFacts]
) -> None:
    """S25: and not before; then every credit of it is."""
    gone = sum(each.amount_minor for each in known if (each.kind, each.status) in GONE)
    due = claim(granted, total, known)
    assert due.fully_reversed == (0 < total <= gone)
    if due.fully_reversed:
        assert due == Claim(granted, 0, True)
    elif total:
        assert due.reversed == granted * gone // total


@given(granted=credits, parts=st.lists(st.integers(1, 900), min_size=1, max_size=5))
def test_partial_refunds_of_the_full_amount_take_all_credits(granted: int, parts: list[int]) -> None:
    """S25: what is rounded down on the way is not left over at the end."""
    back = [ReversalFacts("refund", "succeeded", part) for part in parts]
    assert claim(granted, sum(parts), back) == Claim(granted, 0, True)


@pytest.mark.parametrize(
    "unknown",
    [("refund", "eaten"), ("dispute", "warning_closed"), ("dispute", "prevented"), ("gift", "lost")],
)
@given(granted=credits, total=totals, known=several)
def test_unknown_statuses_and_those_without_money_do_nothing(
    unknown: tuple[str, str], granted: int, total: int, known: list[ReversalFacts]
) -> None:
    """S25: an inquiry, or a status that Stripe may yet think of, takes no credit."""
    strange = ReversalFacts(*unknown, 500)
    assert strange.effect is Effect.NONE
    assert claim(granted, total, [*known, strange]) == claim(granted, total, known)


def test_an_open_dispute_freezes_and_an_inquiry_does_not() -> None:
    """S25."""
    assert claim(2000, 2900, [ReversalFacts("dispute", "warning_under_review", 2900)]) == Claim(0, 0, False)
    assert claim(2000, 2900, [ReversalFacts("dispute", "needs_response", 1450)]) == Claim(0, 1000, False)
    assert claim(2000, 2900, [ReversalFacts("dispute", "lost", 1450)]) == Claim(1000, 0, False)


DISPUTES = {
    "warning_needs_response": (Effect.NONE, Effect.NONE),
    "warning_under_review": (Effect.NONE, Effect.NONE),
    "warning_closed": (Effect.NONE, Effect.NONE),
    "needs_response": (Effect.FREEZES, Effect.FREEZES),
    "under_review": (Effect.FREEZES, Effect.FREEZES),
    "appeal_needs_response": (Effect.REVERSES, Effect.FREEZES),
    "appeal_under_review": (Effect.REVERSES, Effect.FREEZES),
    "won": (Effect.NONE, Effect.NONE),
    "lost": (Effect.REVERSES, Effect.REVERSES),
    "prevented": (Effect.REVERSES, Effect.NONE),
}
"""What each status of a dispute does while its money is withdrawn, and while it is not."""


def test_each_status_of_a_dispute_has_its_effect_and_none_is_missing() -> None:
    """S54: raising the SDK shows which status is new here (stripe.Dispute.status)."""
    assert words(fields(stripe.Dispute)["status"]) == set(DISPUTES)
    for status, (away, there) in DISPUTES.items():
        assert ReversalFacts("dispute", status, 1, withdrawn=True).effect is away, status
        assert ReversalFacts("dispute", status, 1, withdrawn=False).effect is there, status


def test_a_status_that_stripe_adds_later_withholds_what_was_withdrawn() -> None:
    """S54: nothing is taken back for a word that is not understood, and nothing can be spent meanwhile."""
    assert ReversalFacts("dispute", "arbitration", 1, withdrawn=True).effect is Effect.FREEZES
    assert ReversalFacts("dispute", "arbitration", 1, withdrawn=False).effect is Effect.NONE
    assert ReversalFacts("dispute", "arbitration", 1).effect is Effect.NONE


@pytest.mark.parametrize(("kind", "status"), STATUSES)
def test_every_status_has_a_reason_for_the_customer(kind: str, status: str) -> None:
    """S25: text for the customer, not Stripe's text for the merchant."""
    assert reason(kind, status)
    assert "response" not in reason(kind, status)
    assert "_" not in reason(kind, "never_heard_of")


# The ledger


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has accounts of its own."""
    return module_database_url


BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
CATALOGUE = parse_catalogue(PACKAGED_PLANS.read_bytes())


async def untold(_: StatusMessage) -> bool:
    return False


class Books:
    """The books of one account, moved as the settlement moves them."""

    def __init__(self, account: Account, after: AfterRefund = AfterRefund.DEBT) -> None:
        self.id = account.id
        self.after(after)
        self.at = BEGIN
        self.invoices: list[Invoice] = []
        self.reads = 0

    def after(self, policy: AfterRefund) -> None:
        """What becomes of credits that were spent before their money went back."""
        catalogue = msgspec.structs.replace(CATALOGUE, spent_then_refunded=policy)
        self._settlement = Settlement(
            catalogue, {}, untold, ignore_balance, Timeline(), Metrics(), lambda: self.at
        )

    async def bill(self, credits: int, days: int | None = None) -> Invoice:
        """A paid invoice of TOTAL that gives `credits`."""
        ends = self.at + timedelta(days=days) if days else None
        invoice = await granted(await Account.get(id=self.id), credits, ends)
        invoice.total_minor, invoice.settled_at, invoice.status = TOTAL, now(), InvoiceStatus.ACTIVE
        await invoice.save()
        self.invoices.append(invoice)
        return invoice

    async def part(self, invoice: Invoice, credits: int) -> None:
        """One more installment of it."""
        number = 1 + await CreditGrant.filter(invoice_id=invoice.id).count()
        async with write_transaction():
            account = await ledger.lock_account(self.id)
            await ledger.plan_installment(
                account, invoice.id, ledger.GrantTerms(credits, None, number, "pro", 0, self.at)
            )
        planned = await CreditGrant.get(invoice_id=invoice.id, installment=number)
        due = invoice.id in [row.id for row in await Invoice.filter(status="active")]
        assert await self._settlement.make_installment(planned.id) is due

    async def hear(self, invoice: Invoice, kind: Kind, status: str, amount: int = TOTAL, n: int = 0) -> bool:
        """Learn this of the invoice's n-th reversal of its kind; whether it was news."""
        self.reads += 1
        news = self.news(invoice, kind, status, amount, n, self.reads)
        return await self.reverse(news) is Outcome.SETTLED

    async def reverse(self, news: ReversalNews) -> Outcome:
        return await self._settlement.reverse(news)

    def news(self, invoice: Invoice, kind: Kind, status: str, amount: int, n: int, read: int) -> ReversalNews:
        """What Stripe answers to the `read`-th request."""
        fetched_at = BEGIN + timedelta(seconds=read)
        return ReversalNews(f"{kind}-{n}-{invoice.id}", kind, invoice.id, amount, status, fetched_at)

    async def undo(self) -> None:
        """Every refund fails, every dispute is won, every note is void."""
        ends = {Kind.REFUND: "failed", Kind.DISPUTE: "won", Kind.CREDIT_NOTE: "void"}
        for invoice in reversed(self.invoices):
            for each in await Reversal.filter(invoice_id=invoice.id).order_by("id"):
                number = int(each.id.split("-")[1])
                await self.hear(invoice, each.kind, ends[each.kind], each.amount_minor, number)

    async def spend(self, credits: int, key: str) -> None:
        async with write_transaction():
            await reservations.spend(await ledger.lock_account(self.id), credits, key, self.at)

    async def hold(self, credits: int, key: str) -> None:
        async with write_transaction():
            account = await ledger.lock_account(self.id)
            await reservations.reserve(account, credits, key, self.at + timedelta(days=999), self.at)

    async def release(self, key: str) -> None:
        async with write_transaction():
            await reservations.release(await ledger.lock_account(self.id), key, self.at)

    async def commit(self, key: str, credits: int) -> None:
        async with write_transaction():
            await reservations.commit(await ledger.lock_account(self.id), key, credits, self.at)

    async def lapse(self) -> None:
        """What is held goes back, since its time is over."""
        async with write_transaction():
            await reservations.expire_due(await ledger.lock_account(self.id), self.at + timedelta(days=999))

    async def look(self) -> int:
        """The balance, once what is over has ended."""
        async with write_transaction():
            account = await ledger.lock_account(self.id)
            await ledger.expire_due(account, self.at)
        return int(account.balance)

    async def grants(self) -> list[CreditGrant]:
        return await CreditGrant.filter(account_id=self.id).order_by("id")

    async def entries(self) -> list[tuple[EntryKind, int]]:
        rows = await LedgerEntry.filter(account_id=self.id).order_by("id")
        return [(row.kind, row.credits) for row in rows]

    async def check(self) -> None:
        """The three sums agree, nobody owes and has at once, and no grant holds more than it gave."""
        assert len(set(await three_sums(self.id))) == 1
        for grant in await self.grants():
            assert min(grant.remaining, grant.frozen, grant.expired) >= 0
            assert grant.remaining + grant.frozen + grant.expired <= grant.credits
            assert grant.remaining == 0 or grant.state is GrantState.LIVE
        for invoice in await Invoice.filter(account_id=self.id):
            await self._check_claim(invoice)

    async def _check_claim(self, invoice: Invoice) -> None:
        given = [grant for grant in await self.grants() if grant.state is not GrantState.PLANNED]
        grants = [grant for grant in given if grant.invoice_id == invoice.id]
        known = [
            ReversalFacts(each.kind, each.status, each.amount_minor, each.withdrawn)
            for each in await Reversal.filter(invoice_id=invoice.id)
        ]
        due = claim(sum(grant.credits for grant in grants), invoice.total_minor, known)
        assert invoice.credits_reversed == due.reversed
        assert invoice.status == ("reversed" if due.fully_reversed else "active")
        assert sum(grant.frozen for grant in grants) <= due.frozen
        assert 0 <= invoice.credits_unrecoverable <= invoice.credits_reversed


@pytest.fixture
async def books(database: None) -> Books:
    return Books(await an_account())


async def test_a_refund_takes_remaining_credits_and_the_rest_is_a_debt(books: Books) -> None:
    """S25."""
    invoice = await books.bill(2000)
    await books.spend(600, "a")
    await books.hear(invoice, Kind.REFUND, "succeeded")
    assert await three_sums(books.id) == (-600, -600, -600)
    await books.bill(1000)
    assert await books.look() == 400
    await books.check()


async def test_a_dispute_may_be_lost_appealed_and_won_and_lost_again(books: Books) -> None:
    """S54: each time the credits are what the last answer says, with an entry of its own."""
    invoice = await books.bill(2000)
    await books.spend(600, "a")
    balances = []
    for status in ("lost", "appeal_needs_response", "appeal_under_review", "won", "lost", "won"):
        assert await books.hear(invoice, Kind.DISPUTE, status)
        balances.append(await books.look())
        await books.check()
    assert balances == [-600, -600, -600, 1400, -600, 1400]
    assert not await books.hear(invoice, Kind.DISPUTE, "won")


async def test_an_answer_to_an_earlier_request_changes_nothing(books: Books) -> None:
    """S54: two processes read at once, and the slower one has the older answer."""
    invoice = await books.bill(2000)
    await books.hear(invoice, Kind.DISPUTE, "needs_response")
    slower = books.news(invoice, Kind.DISPUTE, "lost", TOTAL, 0, books.reads + 1)
    books.reads += 1
    assert await books.hear(invoice, Kind.DISPUTE, "won")
    assert await books.reverse(slower) is Outcome.ALREADY_SETTLED
    assert await books.look() == 2000
    await books.check()


async def test_the_forgive_policy_takes_only_remaining_credits(books: Books) -> None:
    """S25: and gives back only that, where the refund fails."""
    books.after(AfterRefund.FORGIVE)
    invoice = await books.bill(2000)
    await books.spend(600, "a")
    await books.hear(invoice, Kind.REFUND, "pending")
    assert await books.look() == 0
    await books.hear(invoice, Kind.REFUND, "failed")
    assert await books.look() == 1400
    await books.check()


async def test_an_invoice_without_a_stored_total_is_reversed_by_its_amount_due(books: Books) -> None:
    """S25: settled by an earlier version, refunded under this one."""
    invoice = await books.bill(2000)
    await Invoice.filter(id=invoice.id).update(total_minor=0, amount_due_minor=TOTAL)
    await books.hear(invoice, Kind.REFUND, "succeeded", TOTAL // 2)
    assert await books.look() == 1000
    assert await three_sums(books.id) == (1000, 1000, 1000)


async def test_credits_that_expired_unused_are_not_owed(books: Books) -> None:
    """S25: it was gone already; a refund takes it from nobody, and one that fails brings it to nobody."""
    invoice = await books.bill(2000, days=10)
    await books.spend(600, "a")
    books.at += timedelta(days=10)
    assert await books.look() == 0
    await books.hear(invoice, Kind.REFUND, "succeeded")
    assert await books.look() == -600
    await books.hear(invoice, Kind.REFUND, "failed")
    assert await books.look() == 0
    await books.check()


async def test_frozen_credits_cannot_be_spent_and_do_not_expire(books: Books) -> None:
    """S25: they end when the dispute does, where their month is over by then."""
    invoice = await books.bill(2000, days=10)
    await books.spend(600, "a")
    await books.hear(invoice, Kind.DISPUTE, "needs_response")
    with pytest.raises(InsufficientCredits):
        await books.spend(1, "b")
    books.at += timedelta(days=10)
    await books.look()
    await books.hear(invoice, Kind.DISPUTE, "won")
    assert await books.look() == 0
    assert await books.entries() == [
        (EntryKind.GRANT, 2000),
        (EntryKind.SPEND, -600),
        (EntryKind.FREEZE, -1400),
        (EntryKind.RESTORE, 1400),
        (EntryKind.EXPIRE, -1400),
    ]
    await books.check()


async def test_a_commit_that_was_decided_before_a_dispute_returns_frozen_credits(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S25: by the commit, which read the grant without a lock while nothing was disputed."""
    invoice, read, disputes = await books.bill(2000), account_states.read_reserving, ["needs_response"]
    await books.hold(1000, "job")

    async def read_then_disputed(*asked: Any) -> dict[int, AccountState]:
        states = await read(*asked)
        while disputes:
            hearing = books.hear(invoice, Kind.DISPUTE, disputes.pop())
            assert await asyncio.create_task(hearing), "in a transaction of its own"
        return states

    monkeypatch.setattr(account_states, "read_reserving", read_then_disputed)
    await CreditMoves(ignore_balance)(Commit(books.id, "job", 600, books.at))
    (grant,) = await books.grants()
    assert (await books.look(), grant.remaining, grant.frozen) == (0, 0, 1400)
    await books.check()


async def test_a_lost_dispute_stays_lost_when_older_statuses_follow(books: Books) -> None:
    """S25: earlier answers are stored afterwards, and again: nothing more happens."""
    invoice = await books.bill(2000)
    books.reads = 9
    assert await books.hear(invoice, Kind.DISPUTE, "lost")
    for read, status in enumerate(("needs_response", "under_review", "lost", "warning_needs_response")):
        earlier = books.news(invoice, Kind.DISPUTE, status, TOTAL, 0, read)
        assert await books.reverse(earlier) is Outcome.ALREADY_SETTLED
    assert await books.entries() == [(EntryKind.GRANT, 2000), (EntryKind.REVERSE, -2000)]
    await books.check()


async def test_a_refund_that_fails_pays_the_debt_before_a_dispute_freezes(books: Books) -> None:
    """S25: what was spent is paid by what comes back; only what remains then is withheld."""
    invoice = await books.bill(2000)
    await books.spend(600, "a")
    await books.hear(invoice, Kind.REFUND, "succeeded")
    await books.hear(invoice, Kind.DISPUTE, "needs_response")
    await books.hear(invoice, Kind.REFUND, "failed")
    (grant,) = await books.grants()
    assert (await books.look(), grant.remaining, grant.frozen) == (0, 0, 1400)
    await books.hear(invoice, Kind.DISPUTE, "won")
    assert await books.look() == 1400
    await books.check()


async def test_restored_credits_find_capacity_after_a_reservation_used_it(books: Books) -> None:
    """S25: reserved, refunded, the debt paid by the next grant, released; the refund fails: all is there."""
    first = await books.bill(2000)
    await books.hold(500, "job")
    await books.hear(first, Kind.REFUND, "succeeded")
    assert await books.look() == -500
    await books.bill(2000)
    await books.release("job")
    assert await books.look() == 2000
    await books.hear(first, Kind.REFUND, "failed")
    assert await books.look() == 4000
    await books.check()


GONE_BY = [(Kind.REFUND, "succeeded"), (Kind.DISPUTE, "lost"), (Kind.CREDIT_NOTE, "issued")]


@pytest.mark.parametrize(("kind", "status"), GONE_BY)
@pytest.mark.parametrize("end", ["release", "lapse", "commit"])
async def test_reserved_credits_are_reversed_though_spent_ones_are_forgiven(
    books: Books, kind: Kind, status: str, end: str
) -> None:
    """S25: reserved while the money went back, and not used: however it ends, nothing comes back."""
    books.after(AfterRefund.FORGIVE)
    invoice = await books.bill(2000)
    await books.hold(2000, "job")
    await books.hear(invoice, kind, status)
    assert await books.look() == 0
    match end:
        case "release":
            await books.release("job")
        case "lapse":
            await books.lapse()
        case _:
            await books.commit("job", 0)
    assert await three_sums(books.id) == (0, 0, 0)
    assert (await books.entries())[-2:] == [(EntryKind.RELEASE, 2000), (EntryKind.REVERSE, -2000)]
    await books.check()


async def test_used_reserved_credits_are_forgiven_and_the_rest_is_reversed(
    books: Books,
) -> None:
    """S25: and where the refund fails, exactly the unused comes back."""
    books.after(AfterRefund.FORGIVE)
    invoice = await books.bill(2000)
    await books.hold(1500, "job")
    await books.hear(invoice, Kind.REFUND, "pending")
    await books.commit("job", 600)
    assert await books.look() == 0
    await books.hear(invoice, Kind.REFUND, "failed")
    assert await books.look() == 1400
    await books.check()


@pytest.mark.parametrize("first", ["used", "free"])
async def test_a_partial_refund_takes_any_reserved_credits_that_return(books: Books, first: str) -> None:
    """S25: two reservations, one of them used: the other one's credits pay, in whichever order they end."""
    books.after(AfterRefund.FORGIVE)
    invoice = await books.bill(1000)
    await books.spend(200, "a")
    await books.hold(400, "used")
    await books.hold(400, "free")
    await books.hear(invoice, Kind.REFUND, "succeeded", 330)
    for key in sorted(["used", "free"], reverse=first == "used"):
        await (books.commit(key, 400) if key == "used" else books.release(key))
    assert await books.look() == 70, "1000 less 330 that were refunded and 600 that were used"
    await books.check()


async def test_a_refund_that_fails_before_the_release_takes_nothing(books: Books) -> None:
    """S25."""
    books.after(AfterRefund.FORGIVE)
    invoice = await books.bill(2000)
    await books.hold(2000, "job")
    await books.hear(invoice, Kind.REFUND, "pending")
    await books.hear(invoice, Kind.REFUND, "failed")
    await books.release("job")
    assert await books.look() == 2000
    await books.check()


async def test_credits_reserved_after_the_refund_are_not_taken_for_what_was_forgiven(books: Books) -> None:
    """S25: what a later part of the year gave is the customer's, reserved and released or not."""
    books.after(AfterRefund.FORGIVE)
    invoice = await books.bill(200)
    await books.spend(200, "a")
    await books.hear(invoice, Kind.REFUND, "succeeded", 500)
    await books.part(invoice, 100)
    assert await books.look() == 50
    await books.hold(50, "job")
    await books.release("job")
    assert await books.look() == 50
    await books.check()


@pytest.mark.parametrize("after", AfterRefund)
async def test_credits_returned_during_a_dispute_are_frozen(books: Books, after: AfterRefund) -> None:
    """S25: released, lapsed or not used, it waits for the dispute's end."""
    books.after(after)
    invoice = await books.bill(2000)
    for key in ("released", "committed", "lapsed"):
        await books.hold(500, key)
    await books.hear(invoice, Kind.DISPUTE, "needs_response")
    await books.release("released")
    await books.commit("committed", 100)
    await books.lapse()
    assert await three_sums(books.id) == (0, 0, 0)
    (grant,) = await books.grants()
    assert grant.frozen == 1900
    await books.hear(invoice, Kind.DISPUTE, "won")
    assert await books.look() == 1900
    await books.check()


@pytest.mark.parametrize("after", AfterRefund)
async def test_a_partial_dispute_freezes_its_share_of_returned_credits(
    books: Books, after: AfterRefund
) -> None:
    """S25."""
    books.after(after)
    invoice = await books.bill(2000)
    await books.hold(1700, "job")
    await books.hear(invoice, Kind.DISPUTE, "needs_response", 500)
    assert await books.look() == 0
    await books.release("job")
    assert await books.look() == 1000
    await books.hear(invoice, Kind.DISPUTE, "lost", 500)
    assert await books.look() == 1000
    await books.check()


async def test_credits_that_paid_a_debt_return_to_their_own_grants(
    books: Books,
) -> None:
    """S25: reserved, refunded, the debt paid by a top-up, the month over, released: the top-up is whole."""
    invoice = await books.bill(2000, days=10)
    await books.hold(500, "job")
    await books.hear(invoice, Kind.REFUND, "succeeded")
    await books.bill(2000)
    assert await books.look() == 1500
    books.at += timedelta(days=10)
    await books.release("job")
    assert await books.look() == 2000
    await books.check()


async def test_credits_that_return_to_a_disputed_payment_from_another_are_frozen(books: Books) -> None:
    """S25: of a refund that fails, after the other payment's credits had paid for it."""
    refunded = await books.bill(1000)
    await books.spend(1000, "a")
    disputed = await books.bill(1000)
    await books.hear(refunded, Kind.REFUND, "succeeded")
    await books.hear(disputed, Kind.DISPUTE, "needs_response")
    await books.hear(refunded, Kind.REFUND, "failed")
    _, grant = await books.grants()
    assert (await books.look(), grant.remaining, grant.frozen) == (0, 0, 1000)
    await books.check()


async def test_reserved_credits_that_paid_a_debt_return_frozen_where_that_payment_is_disputed(
    books: Books,
) -> None:
    """S25: reserved, refunded, the debt paid by a top-up, which is disputed, the month over, released."""
    invoice = await books.bill(2000, days=10)
    await books.hold(500, "job")
    await books.hear(invoice, Kind.REFUND, "succeeded")
    disputed = await books.bill(2000)
    await books.hear(disputed, Kind.DISPUTE, "needs_response")
    books.at += timedelta(days=10)
    await books.release("job")
    _, grant = await books.grants()
    assert (await books.look(), grant.remaining, grant.frozen) == (0, 0, 2000)
    await books.check()


async def test_a_partly_failed_refund_returns_what_other_grants_paid(books: Books) -> None:
    """S25: it is what one refund alone would have come to, though half of the month had expired unused."""
    invoice = await books.bill(1000, days=10)
    await books.spend(500, "a")
    books.at += timedelta(days=10)
    await books.bill(1000)
    await books.hear(invoice, Kind.REFUND, "succeeded", 600)
    assert await books.look() == 900
    await books.hear(invoice, Kind.REFUND, "succeeded", 400, n=1)
    assert await books.look() == 500
    await books.hear(invoice, Kind.REFUND, "failed", 400, n=1)
    assert await books.look() == 900
    await books.check()


@pytest.mark.parametrize("looked", [True, False])
async def test_an_expiry_run_before_the_refund_changes_nothing(books: Books, looked: bool) -> None:
    """S25: the month is over and up to 40 stay, whether or not that was entered before the refund came."""
    invoice = await books.bill(100, days=10)
    await CreditGrant.filter(invoice_id=invoice.id).update(rollover_cap=40)
    books.at += timedelta(days=10)
    if looked:
        assert await books.look() == 40
    await books.hear(invoice, Kind.REFUND, "succeeded", 370)
    assert await books.look() == 3
    await books.check()


async def test_concurrent_releases_and_refunds_do_not_deadlock(books: Books) -> None:
    """S25: each locks the account and the invoice; none is refused because of another's order."""
    books.after(AfterRefund.FORGIVE)
    invoice = await books.bill(2000)
    keys = [f"job-{number}" for number in range(8)]
    for key in keys:
        await books.hold(250, key)
    await books.hear(invoice, Kind.REFUND, "pending", 500)
    await asyncio.gather(
        *(books.release(key) for key in keys),
        *(books.hear(invoice, Kind.REFUND, "succeeded", 500) for _ in range(4)),
        *(books.hear(invoice, Kind.DISPUTE, status, 250) for status in ("needs_response", "under_review")),
    )
    assert await books.look() == 500
    await books.check()


async def test_an_installment_is_reduced_by_a_partial_refund(books: Books) -> None:
    """S25: half of it after half a refund, and none after a whole one, however late the worker looks."""
    invoice = await books.bill(200)
    await books.hear(invoice, Kind.REFUND, "succeeded", TOTAL // 2)
    await books.part(invoice, 100)
    assert await books.look() == 150
    await books.hear(invoice, Kind.REFUND, "succeeded", TOTAL, n=1)
    await books.part(invoice, 100)  # which sees to it that it is refused
    assert await books.look() == 0
    await books.check()


async def test_credits_returned_after_the_subscription_ended_expire(books: Books) -> None:
    """S25: a plan whose credits end with it keeps none of those that a dispute withheld."""
    invoice = await books.bill(2000)
    await Invoice.filter(id=invoice.id).update(subscription="sub_1")
    await CreditGrant.filter(invoice_id=invoice.id).update(plan="pro")
    await books.hear(invoice, Kind.DISPUTE, "needs_response")
    async with write_transaction():
        await granting.end_subscription_grants(await ledger.lock_account(books.id), "sub_1", ["pro"], now())
    await books.hear(invoice, Kind.DISPUTE, "won")
    books.at = now()
    assert await books.look() == 0
    await books.check()


# Any history at all


@dataclass(frozen=True)
class Bill:
    credits: int
    days: int | None = None


@dataclass(frozen=True)
class CreditPart:
    invoice: int
    credits: int


@dataclass(frozen=True)
class Spend:
    credits: int
    key: int


@dataclass(frozen=True)
class Hold:
    credits: int
    key: int


@dataclass(frozen=True)
class Release:
    key: int


@dataclass(frozen=True)
class Wait:
    days: int


@dataclass(frozen=True)
class Hear:
    """Something of the n-th refund, dispute or note of one of the invoices."""

    invoice: int
    known: tuple[str, str]
    n: int


AMOUNTS = (330, 700, TOTAL)

lasting = [
    st.builds(Bill, st.integers(0, 300)),
    st.builds(CreditPart, st.integers(0, 2), st.integers(0, 100)),
    st.builds(Spend, st.integers(1, 200), st.integers(1, 6)),
    st.builds(Hold, st.integers(1, 200), st.integers(1, 6)),
    st.builds(Release, st.integers(1, 6)),
]
passing = [st.builds(Bill, st.integers(0, 300), st.integers(1, 20)), st.builds(Wait, st.integers(1, 8))]
invoices, numbers = st.integers(0, 2), st.integers(0, 2)
anything = st.builds(Hear, invoices, st.sampled_from(STATUSES), numbers)
taking = anything.filter(
    lambda step: ReversalFacts(step.known[0], step.known[1], 0).effect is not Effect.NONE
)
undoable = [kind.filter(lambda step: step.known[1] != "lost") for kind in (taking, taking, anything)]

# Without shrinking: each example is a history on a database, and a failure would take minutes to tell.
on_a_database = hypothesis_settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
policies = st.sampled_from(AfterRefund)


@on_a_database
@given(
    after=policies,
    history=st.lists(st.one_of(*lasting, *passing, taking, taking, anything), min_size=4, max_size=14),
)
def test_the_ledger_balances_after_any_history_of_reversals(
    database_url: str, after: AfterRefund, history: list[Any]
) -> None:
    """S25, S37: after each step of any history, with debts or forgiving; and each entry has its reason."""

    async def play() -> None:
        async with open_database(database_url):
            books = Books(await an_account(), after)
            await books.bill(200)
            for step in history:
                await _do(books, step)
                await books.check()
            await books.look()
            await books.check()
            moved = LedgerEntry.filter(account_id=books.id).exclude(kind=EntryKind.SPEND)
            assert all(entry.reason for entry in await moved)

    asyncio.run(play())


@on_a_database
@given(after=policies, history=st.lists(st.one_of(*lasting, *undoable), min_size=4, max_size=14))
def test_undoing_all_reversals_restores_all_unspent_credits(
    database_url: str, after: AfterRefund, history: list[Any]
) -> None:
    """S25: whatever happened between: the balance is what was granted less what was spent."""

    async def play() -> None:
        async with open_database(database_url):
            books = Books(await an_account(), after)
            await books.bill(200)
            await books.spend(120, "first")
            for step in history:
                await _do(books, step)
            await books.undo()
            for key in range(1, 7):
                await _do(books, Release(key))
            await books.check()
            entries = await books.entries()
            bought = sum(credits for kind, credits in entries if kind is EntryKind.GRANT)
            spent = sum(credits for kind, credits in entries if kind is EntryKind.SPEND)
            assert await books.look() == bought + spent
            assert all(grant.frozen == 0 for grant in await books.grants())

    asyncio.run(play())


@on_a_database
@given(
    after=policies,
    spent=st.integers(0, 300),
    heard=st.lists(anything, min_size=1, max_size=6),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_in_which_reversals_arrive_changes_nothing(
    database_url: str, after: AfterRefund, spent: int, heard: list[Hear], seed: random.Random
) -> None:
    """S25: the same last word of each refund, dispute and note, in two orders: the same books.

    Of several invoices where nothing was spent; of one, whatever was.
    """
    final = {(0 if spent else step.invoice, step.known[0], step.n): step for step in heard}
    orders = [list(final.values()), seed.sample(list(final.values()), len(final))]

    async def play(order: Sequence[Hear]) -> list[Any]:
        books = Books(await an_account(), after)
        for invoice_credits in (300,) if spent else (300, 70, 0):
            await books.bill(invoice_credits)
        if spent:
            await books.spend(spent, "before")
        for step in order:
            await _do(books, step)
        await books.check()
        holding = [(grant.remaining, grant.frozen) for grant in await books.grants()]
        return [await books.look(), *holding]

    async def both() -> tuple[list[Any], list[Any]]:
        async with open_database(database_url):
            return await play(orders[0]), await play(orders[1])

    one, other = asyncio.run(both())
    assert one == other


async def _do(books: Books, step: Any) -> None:
    match step:
        case Bill(credits, days) if len(books.invoices) < 3:
            await books.bill(credits, days)
        case CreditPart(number, credits) if number < len(books.invoices):
            await books.part(books.invoices[number], credits)
        case Wait(days):
            books.at += timedelta(days=days)
        case Hear(number, (kind, status), n):
            invoice = books.invoices[number % len(books.invoices)]
            await books.hear(invoice, Kind(kind), status, AMOUNTS[n], n)
        case Spend() | Hold() | Release():
            await _try(books, step)


async def _try(books: Books, step: Spend | Hold | Release) -> None:
    """What may be refused, and changes nothing then."""
    held = f"held-{step.key}"
    try:
        match step:
            case Spend(credits, key):
                await books.spend(credits, str(key))
            case Hold(credits, _):
                await books.hold(credits, held)
            case Release() if await _is_held(books, held):
                await books.release(held)
    except (InsufficientCredits, KeyReused, ReservationOver):
        await books.check()


async def _is_held(books: Books, key: str) -> bool:
    return await Reservation.exists(account_id=books.id, key=key, state="held")
