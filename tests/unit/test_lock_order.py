"""The account is locked before its invoices, by all that lock both: then no two of them can deadlock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

import asyncpg
import pytest

from paidup.credits.reversals import ReversalNews
from paidup.db.connection import connection
from paidup.db.models import Account, Invoice, ReversalKind
from paidup.domain.catalog import Catalogue, Plan, PlanPrice
from paidup.domain.payment_facts import Source
from paidup.errors import Conflict
from paidup.operations.audit_log import Instruction
from paidup.operations.erasure import erase
from paidup.operations.merging import Merging
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from tests.support.factories import an_account, an_invoice, ignore_balance
from tests.support.provisioning import paid
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
CATALOGUE = Catalogue((Plan("pro", "Pro", 2000, (PlanPrice("pro", 2900),)),))
WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() LIMIT 1"
)
BOTH_WAIT = WAITING.replace("LIMIT 1", "OFFSET 1")
LOCK_ACCOUNTS = "SELECT id FROM accounts WHERE id = ANY($1::int[]) FOR NO KEY UPDATE"
LOCK_ACCOUNT = "SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE"
LOCK_INVOICE = "SELECT id FROM invoices WHERE id = $1 FOR NO KEY UPDATE NOWAIT"


async def ignore(_: Any) -> bool:
    return True


async def settle(settlement: Settlement, invoice: Invoice) -> None:
    await settlement.settle(paid(invoice), Source.WEBHOOK)


async def settle_by_operator(settlement: Settlement, invoice: Invoice) -> None:
    await settlement.settle_by_operator(paid(invoice), ignore)  # type: ignore[arg-type]


async def reverse(settlement: Settlement, invoice: Invoice) -> None:
    news = ReversalNews("re_1", ReversalKind.REFUND, invoice.id, 100, "succeeded", now())
    await settlement.reverse(news)


async def merge(_: Settlement, invoice: Invoice) -> None:
    into, merged = await an_account(), await Account.get(id=invoice.account_id)
    why = Instruction("grace", "one person", "T-1")
    await Merging(ignore_balance).merge(into.external_id, merged.external_id, why)


async def merge_again(ada: str, bob: str) -> None:
    with pytest.raises(Conflict):
        await Merging(ignore_balance).merge(ada, bob, Instruction("grace", "one person", "T-2"))


async def erase_both(ada: str, _: str) -> None:
    await erase(ada, Instruction("grace", "a request", "T-2"))


@pytest.mark.parametrize("work", [merge_again, erase_both])
async def test_a_merged_account_is_locked_before_the_one_that_answers_for_it(
    database: None, database_url: str, work: Callable[[str, str], Coroutine[Any, Any, None]]
) -> None:
    """As `ledger.lock_account` does, which goes on from the one to the other."""
    ada, bob = await an_account("ada"), await an_account("bob")
    await Merging(ignore_balance).merge(
        ada.external_id, bob.external_id, Instruction("grace", "one person", "T-1")
    )
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.fetch(LOCK_ACCOUNT, bob.id)
            waiting = asyncio.create_task(work(ada.external_id, bob.external_id), context=Context())
            await wait_until(partial(connection().execute_query_dict, WAITING))
            assert await other.fetch(f"{LOCK_ACCOUNT} NOWAIT", ada.id)
        await waiting
    finally:
        await other.close()


async def test_of_two_opposite_merges_one_is_made_and_the_other_is_told_so(
    database: None, database_url: str
) -> None:
    """They cannot have one order, and the database aborts one: it is made once more, and finds it done."""
    ada, bob = await an_account(), await an_account()
    opposite = (("T-1", ada, bob), ("T-2", bob, ada))
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.fetch(LOCK_ACCOUNTS, [ada.id, bob.id])
            merges = [
                asyncio.create_task(
                    Merging(ignore_balance).merge(
                        into.external_id, merged.external_id, Instruction("grace", "one person", key)
                    ),
                    context=Context(),
                )
                for key, into, merged in opposite
            ]
            await wait_until(partial(connection().execute_query_dict, BOTH_WAIT))
        answers = await asyncio.gather(*merges, return_exceptions=True)
    finally:
        await other.close()
    (refused,) = (each for each in answers if isinstance(each, BaseException))
    assert isinstance(refused, Conflict)
    assert await Account.filter(id__in=[ada.id, bob.id], merged_into__isnull=False).count() == 1


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("work", [settle, settle_by_operator, reverse, merge])
async def test_what_waits_for_an_account_holds_none_of_its_invoices(
    database: None,
    database_url: str,
    work: Callable[[Settlement, Invoice], Coroutine[Any, Any, None]],
    settled: bool,
) -> None:
    """The holder of the account may write any invoice of it, as the end of a reservation does."""
    settlement = Settlement(CATALOGUE, {}, ignore, ignore_balance, Timeline(), Metrics())
    invoice = await an_invoice(await an_account())
    if settled:
        await settlement.settle(paid(invoice), Source.WEBHOOK)
        if work is settle:
            return  # it writes nothing
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.fetch(LOCK_ACCOUNT, invoice.account_id)
            waiting = asyncio.create_task(work(settlement, invoice), context=Context())
            await wait_until(partial(connection().execute_query_dict, WAITING))
            assert await other.fetch(LOCK_INVOICE, invoice.id)
        await waiting
    finally:
        await other.close()
