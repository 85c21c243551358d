"""Corrections by an operator: grant, revoke, adjust. Each happens once per key, and is undone by another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from tortoise.exceptions import IntegrityError

from paidup.credits import ledger, reservations
from paidup.credits.audit import audit_all
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import Account, Correction, CreditGrant, EntryKind, LedgerEntry
from paidup.domain.catalog import AfterRefund
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import Conflict, InsufficientCredits, InvalidInput, NotFound, UnknownPlan
from paidup.operations.audit_log import Instruction, list_corrections
from paidup.operations.corrections import Corrections, Gift, PaidBy
from paidup.settings import PACKAGED_PLANS
from tests.support.factories import an_account, granted, three_sums

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
CATALOGUE = parse_catalogue(PACKAGED_PLANS.read_bytes())


class Day:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = BEGIN

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has accounts of its own."""
    return module_database_url


@pytest.fixture
async def audited(database: None) -> AsyncIterator[None]:
    """After the test, the audit finds nothing wrong."""
    yield
    assert [each for each in await audit_all() if not each.subject.startswith("invoice in_")] == []


@pytest.fixture
def day() -> Day:
    return Day()


@pytest.fixture
def support(day: Day) -> Corrections:
    return Corrections(CATALOGUE, clock=day)


def ticket(account: Account, number: int = 1, by: str = "grace") -> Instruction:
    return Instruction(by, "they asked for it", f"{account.external_id}-{number}")


async def spend(account: Account, credits: int, at: datetime = BEGIN) -> None:
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        await reservations.spend(locked, credits, f"spend-{credits}", at)


async def sums(account: Account) -> int:
    balance, entries, live = await three_sums(account.id)
    assert balance == entries == live
    return balance


async def test_a_grant_is_an_entry_a_balance_and_a_row_of_the_audit_log(
    support: Corrections, ada: Account, audited: None
) -> None:
    gift = Gift(500, "pro", BEGIN + timedelta(days=30))
    done = await support.grant(ada.external_id, gift, ticket(ada))
    assert await sums(ada) == 500
    entry = await LedgerEntry.get(account_id=ada.id)
    assert (entry.kind, entry.reference, entry.reason) == (
        EntryKind.GRANT,
        f"correction:{done.id}",
        "pro, given by support",
    )
    row = await CreditGrant.get(account_id=ada.id)
    assert (row.invoice_id, row.correction, row.plan, row.expires_at) == (
        None, done.id, "pro", gift.expires_at,
    )  # fmt: skip
    assert await list_corrections(ada) == [done]
    assert (done.by, done.reason, done.account) == ("grace", "they asked for it", ada.external_id)
    assert (done.before, done.after) == ({"balance": 0}, {"balance": 500})


async def test_the_same_key_gives_the_same_result_and_another_content_is_refused(
    support: Corrections, ada: Account
) -> None:
    gift = Gift(500)
    done = await support.grant(ada.external_id, gift, ticket(ada))
    assert await support.grant(ada.external_id, gift, ticket(ada, by="linus")) == done
    with pytest.raises(Conflict, match="used for something else"):
        await support.grant(ada.external_id, Gift(501), ticket(ada))
    with pytest.raises(Conflict, match="used for something else"):
        await support.adjust(ada.external_id, 500, ticket(ada))
    assert await sums(ada) == 500


async def test_concurrent_calls_with_one_key_grant_once(support: Corrections, ada: Account) -> None:
    bob = await an_account("bob")
    calls = [support.grant(ada.external_id, Gift(500), ticket(ada)) for _ in range(4)]
    others = [support.grant(bob.external_id, Gift(500), ticket(ada)) for _ in range(4)]
    found = await asyncio.gather(*calls, *others, return_exceptions=True)
    done = [each for each in found if not isinstance(each, BaseException)]
    assert len(done) == 4
    assert len({each.id for each in done}) == 1
    assert all(isinstance(each, Conflict) for each in found if isinstance(each, BaseException))
    assert await sums(ada) + await sums(bob) == 500


async def test_the_database_has_one_grant_for_a_correction(support: Corrections, ada: Account) -> None:
    """The unique key holds without any check in code, and nothing is left of the attempt."""
    done = await support.grant(ada.external_id, Gift(500), ticket(ada))
    with pytest.raises(IntegrityError):
        async with write_transaction():
            await CreditGrant.create(account_id=ada.id, correction=done.id, credits=1, remaining=1)
    assert await sums(ada) == 500


@pytest.mark.parametrize(
    "instruction",
    [Instruction("", "why", "k"), Instruction("grace", " ", "k"), Instruction("grace", "why", "")],
    ids=["by", "reason", "key"],
)
async def test_who_why_and_a_key_are_required(
    support: Corrections, ada: Account, instruction: Instruction
) -> None:
    with pytest.raises(InvalidInput):
        await support.grant(ada.external_id, Gift(500), instruction)
    assert await sums(ada) == 0


async def test_what_cannot_be_granted_is_refused_and_leaves_nothing(
    support: Corrections, ada: Account
) -> None:
    with pytest.raises(NotFound):
        await support.grant("nobody", Gift(500), ticket(ada))
    with pytest.raises(UnknownPlan):
        await support.grant(ada.external_id, Gift(500, "gold"), ticket(ada))
    with pytest.raises(InvalidInput):
        await support.grant(ada.external_id, Gift(0), ticket(ada))
    with pytest.raises(InvalidInput):
        await support.grant(ada.external_id, Gift(5, expires_at=BEGIN), ticket(ada))
    with pytest.raises(InvalidInput):
        await support.adjust(ada.external_id, 0, ticket(ada))
    assert not await Correction.exists(account_id=ada.id)
    assert await sums(ada) == 0


async def test_a_given_grant_is_spent_in_order_expires_and_pays_a_debt(
    support: Corrections, day: Day, ada: Account, audited: None
) -> None:
    await granted(ada, 100)
    await support.grant(ada.external_id, Gift(50, expires_at=BEGIN + timedelta(days=1)), ticket(ada))
    await spend(ada, 20)  # from what expires first
    day.at = BEGIN + timedelta(days=2)
    await support.adjust(ada.external_id, -130, ticket(ada, 2), allow_debt=True)
    assert await sums(ada) == -30  # the other 30 of the gift had expired
    await support.grant(ada.external_id, Gift(50), ticket(ada, 3))
    assert await sums(ada) == 20


async def test_revoke_undoes_a_grant(support: Corrections, ada: Account, audited: None) -> None:
    await granted(ada, 70)
    done = await support.grant(ada.external_id, Gift(500), ticket(ada))
    undone = await support.revoke(done.key, ticket(ada, 2))
    assert await sums(ada) == 70
    assert (undone.before, undone.after) == ({"balance": 570}, {"balance": 70})
    assert await support.revoke(done.key, ticket(ada, 2)) == undone
    with pytest.raises(Conflict, match="revoked already"):
        await support.revoke(done.id, ticket(ada, 3))
    await support.grant(ada.external_id, Gift(500), ticket(ada, 4))
    assert await sums(ada) == 570


async def test_a_revoked_grant_that_was_spent_is_owed_or_forgiven(
    support: Corrections, ada: Account, audited: None
) -> None:
    for number, spent, balance in ((1, AfterRefund.DEBT, -300), (3, AfterRefund.FORGIVE, 0)):
        account = await an_account()
        await support.grant(account.external_id, Gift(500), ticket(account, number))
        await spend(account, 300)
        await support.revoke(ticket(account, number).key, ticket(account, number + 1), spent)
        assert await sums(account) == balance


@pytest.mark.parametrize("spent", list(AfterRefund))
@pytest.mark.parametrize("used", [0, 120])
async def test_reserved_credits_of_a_revoked_grant_count_once(
    support: Corrections, ada: Account, audited: None, spent: AfterRefund, used: int
) -> None:
    """What was used is owed or forgiven; what comes back is taken back."""
    await support.grant(ada.external_id, Gift(200), ticket(ada))
    until = BEGIN + timedelta(hours=1)
    async with write_transaction():
        await reservations.reserve(await ledger.lock_account(ada.id), 150, "job", until, BEGIN)
    await support.revoke(ticket(ada).key, ticket(ada, 2), spent)
    async with write_transaction():
        await reservations.commit(await ledger.lock_account(ada.id), "job", used, BEGIN)
    assert await sums(ada) == (-used if spent is AfterRefund.DEBT else 0)


async def test_an_adjustment_is_undone_by_its_opposite(
    support: Corrections, ada: Account, audited: None
) -> None:
    await granted(ada, 100)
    for number, credits, balance in ((1, 40, 140), (2, -40, 100), (3, -30, 70), (4, 30, 100)):
        await support.adjust(ada.external_id, credits, ticket(ada, number))
        assert await sums(ada) == balance
    with pytest.raises(InsufficientCredits):
        await support.adjust(ada.external_id, -101, ticket(ada, 5))
    assert await sums(ada) == 100
    kinds = [row.kind for row in await LedgerEntry.filter(account_id=ada.id).order_by("id")]
    assert kinds == [EntryKind.GRANT, *[EntryKind.ADJUST] * 4]


async def test_a_payment_that_stripe_never_saw_is_an_honest_entry(  # words: allow
    support: Corrections, ada: Account, audited: None
) -> None:
    """S58: the entry and the audit log say that it was paid by wire."""
    done = await support.grant(ada.external_id, Gift(2000, "pro", paid_by=PaidBy.BANK_TRANSFER), ticket(ada))
    entry = await LedgerEntry.get(account_id=ada.id)
    assert (entry.reason, entry.credits) == ("pro, paid by wire", 2000)  # words: allow
    assert done.details["paid_by"] == PaidBy.BANK_TRANSFER


async def test_the_audit_finds_a_grant_that_no_correction_explains(database_url: str) -> None:
    async with open_database(database_url):
        account = await an_account()
        row = await CreditGrant.create(account_id=account.id, correction="cor_x", credits=0, remaining=0)
        assert [each.what for each in await audit_all() if each.subject == f"grant {row.id}"] == [
            "it is of no invoice, and of no correction with an entry in audit_log"
        ]
        await row.delete()
