"""Credits on trust while a bank debit is processing: replaced by the payment, or taken back, in any order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paidup.credits import ledger, reservations
from paidup.credits.reversals import ReversalNews
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import (
    Account,
    CheckoutSession,
    CreditGrant,
    Invoice,
    LedgerEntry,
    Reservation,
    ReversalKind,
)
from paidup.domain.catalog import AfterRefund, Trust
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import IntentFacts, PaymentError, PaymentFacts, Source
from paidup.domain.plans_toml import parse_catalogue
from paidup.domain.quotes import CreditPart, Quote
from paidup.errors import ConfigurationError, InsufficientCredits
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.runtime.metrics import Metrics
from paidup.settings import PACKAGED_PLANS
from tests.support.factories import an_account, an_invoice, granted, ignore_balance, three_sums

CATALOGUE = parse_catalogue(PACKAGED_PLANS.read_bytes())
AT = datetime(2026, 11, 26, tzinfo=UTC)
CAP, QUOTED = 1500, 2000
REFUSED = PaymentError("insufficient_funds", "The SEPA Direct Debit did not go through.")


async def not_published(_: StatusMessage) -> bool:
    return False


class Debits:
    """An account that pays by bank debit, and its settlement."""

    def __init__(self, account: Account, **policy: Any) -> None:
        self.id = account.id
        catalogue = msgspec.structs.replace(CATALOGUE, trust=Trust(**({"sepa_debit": CAP} | policy)))
        self.settlement = Settlement(
            catalogue, {}, not_published, ignore_balance, Timeline(), Metrics(), lambda: AT
        )
        self.spent = 0
        self.keys = 0

    async def invoice(self, **values: Any) -> Invoice:
        return await an_invoice(await Account.get(id=self.id), total_minor=2900, **values)

    async def told(self, row: Invoice, status: str, method: str | None = "sepa_debit") -> Invoice:
        """The settlement hears this of the payment; the invoice afterwards."""
        received = 2900 if status == "succeeded" else 0
        error = REFUSED if status == "requires_payment_method" else None
        payment = IntentFacts(
            str(row.payment_intent), status, row.customer, "usd", 2900, received, row.id, error, method
        )
        await self.settlement.settle(PaymentFacts(payments=(payment,)), Source.WEBHOOK)
        return await Invoice.get(id=row.id)

    async def processing(self, row: Invoice) -> Invoice:
        return await self.told(row, "processing")

    async def refuse(self, row: Invoice) -> Invoice:
        return await self.told(row, "requires_payment_method")

    async def pay(self, row: Invoice) -> Invoice:
        return await self.told(row, "succeeded")

    async def give_back(self, row: Invoice) -> None:
        news = ReversalNews(f"re_{row.id}", ReversalKind.REFUND, row.id, 2900, "succeeded", AT)
        await self.settlement.reverse(news)

    async def spend(self, credits: int) -> None:
        self.keys += 1
        async with write_transaction():
            await reservations.spend(await ledger.lock_account(self.id), credits, f"k{self.keys}", AT)
        self.spent += credits

    async def hold(self, credits: int, key: str) -> None:
        async with write_transaction():
            account = await ledger.lock_account(self.id)
            await reservations.reserve(account, credits, key, AT + timedelta(days=1), AT)

    async def release(self, key: str) -> None:
        async with write_transaction():
            await reservations.release(await ledger.lock_account(self.id), key, AT)

    async def balance(self) -> int:
        """The balance once what is over has ended; the books agree."""
        async with write_transaction():
            await ledger.expire_due(await ledger.lock_account(self.id), AT)
        (balance,) = set(await three_sums(self.id))
        return balance

    async def entries(self) -> list[tuple[str, int]]:
        return [(each.kind.value, each.credits) for each in await LedgerEntry.filter(account_id=self.id)]


@pytest.fixture
async def debits(database: None) -> Debits:
    return Debits(await an_account())


async def test_without_the_policy_nothing_is_on_trust(database: None) -> None:
    """Off by default, and for a method without a cap."""
    debits = Debits(await an_account(), sepa_debit=0, us_bank_account=CAP)
    row = await debits.processing(await debits.invoice())
    assert (row.status, row.credits_on_trust, await debits.entries()) == (InvoiceStatus.PROCESSING, 0, [])


async def test_the_payment_grants_exactly_the_rest(debits: Debits) -> None:
    """What was spent on trust counts as spent of the payment's credits, not of others that never expire."""
    kept = await granted(await Account.get(id=debits.id), 100)
    row = await debits.processing(await debits.invoice())
    assert (row.credits_on_trust, await debits.balance()) == (CAP, 100 + CAP)
    await debits.processing(row)  # told again: nothing more
    await debits.spend(100 + 700)  # the older credits first
    await debits.pay(row)
    row = await debits.pay(row)
    assert (row.status, row.credits_on_trust, await debits.balance()) == (InvoiceStatus.ACTIVE, 0, 1300)
    assert (await debits.entries())[1:] == [
        ("grant", CAP),
        ("spend", -800),
        ("grant", QUOTED),
        ("reverse", -CAP),
    ]
    (paid,) = await CreditGrant.filter(invoice_id=row.id, installment=1)
    assert (paid.credits, paid.remaining) == (QUOTED, 1300)
    assert (await CreditGrant.get(invoice_id=kept.id)).remaining == 0


async def test_another_units_credits_come_with_the_payment_and_pay_for_nothing(debits: Debits) -> None:
    """Only the default unit is given on trust, and what was spent of it is of the default unit."""
    due = int(AT.timestamp())
    default, images = (
        Quote(credits, "pro", "price", (CreditPart("pro", "price", credits, (due,), due),))
        for credits in (QUOTED, 50)
    )
    quoted = msgspec.to_builtins(msgspec.structs.replace(default, units={"images": images}))
    row = await debits.processing(await debits.invoice(quote=quoted))
    assert (row.credits_on_trust, (await Account.get(id=debits.id)).unit_balances) == (CAP, None)
    await debits.spend(700)
    await debits.pay(row)
    account = await Account.get(id=debits.id)
    assert (account.balance, account.unit_balances["images"]["balance"]) == (1300, 50)
    paid = await CreditGrant.filter(invoice_id=row.id, installment__gt=0)
    assert {grant.unit: grant.remaining for grant in paid} == {"": 1300, "images": 50}


@pytest.mark.parametrize(("after", "left"), [(AfterRefund.DEBT, -700), (AfterRefund.FORGIVE, 0)])
async def test_nothing_is_left_of_it_when_the_debit_fails(
    database: None, after: AfterRefund, left: int
) -> None:
    """What was spent is owed, or forgiven; the same invoice may be paid by another method afterwards."""
    debits = Debits(await an_account(), spent_then_failed=after)
    row = await debits.processing(await debits.invoice())
    await debits.spend(700)
    await debits.refuse(row)
    row = await debits.refuse(row)
    assert (row.status, row.debit_failed, row.credits_on_trust) == (InvoiceStatus.FAILED, True, 0)
    assert await debits.balance() == left
    row = await debits.processing(row)
    assert (row.credits_on_trust, await debits.balance()) == (0, left), "never after a failed debit"
    await debits.pay(row)
    assert await debits.balance() == QUOTED + left


async def test_credits_that_a_reservation_returns_after_the_failure_are_not_kept(database: None) -> None:
    """Forgiven credits that were only reserved expire as they come back."""
    debits = Debits(await an_account(), spent_then_failed=AfterRefund.FORGIVE)
    row = await debits.processing(await debits.invoice())
    await debits.hold(900, "job")
    await debits.refuse(row)
    await debits.release("job")
    assert await debits.balance() == 0


async def test_two_debits_share_the_cap(debits: Debits) -> None:
    """At the same time as well; what one gives back, another may have."""
    first, second = await debits.invoice(), await debits.invoice()
    await asyncio.gather(debits.processing(first), debits.processing(second))
    assert await debits.balance() == CAP
    for row in (first, second):
        await debits.pay(row)
    assert await debits.balance() == 2 * QUOTED
    third = await debits.processing(await debits.invoice())
    assert third.credits_on_trust == CAP


async def test_an_account_with_a_dispute_gets_none(debits: Debits) -> None:
    """A debit that succeeded and was disputed is as good as a failed one."""
    row = await debits.pay(await debits.invoice())
    news = ReversalNews("du_1", ReversalKind.DISPUTE, row.id, 2900, "lost", AT)
    await debits.settlement.reverse(news)
    later = await debits.processing(await debits.invoice())
    assert later.credits_on_trust == 0


async def named_by_its_payer(debits: Debits, **session: Any) -> CheckoutSession:
    """A page that somebody has paid who wrote the account into its address."""
    defaults: dict[str, Any] = {
        "id": "cs_named",
        "account_id": debits.id,
        "mode": "subscription",
        "status": "complete",
        "payment_status": "unpaid",
        "subscription": "sub_named",
        "named_by_payer": True,
        "expires_at": AT,
        "created_at": AT,
    }
    return await CheckoutSession.create(**{**defaults, **session})


OF_ITS_PAGE: dict[str, Any] = {"checkout": "cs_named", "subscription": "sub_named"}
RENEWAL: dict[str, Any] = {"subscription": "sub_named", "billing_reason": "subscription_cycle"}


@pytest.mark.parametrize("invoice", [OF_ITS_PAGE, RENEWAL], ids=["page", "renewal"])
async def test_what_somebody_else_has_paid_for_an_account_says_nothing_of_it(
    debits: Debits, invoice: dict[str, Any]
) -> None:
    """S49: it gives nothing on trust, and no failed or disputed debit of it takes trust from the account."""
    await named_by_its_payer(debits)
    await named_by_its_payer(debits, id="cs_once", mode="payment", subscription=None)
    row = await debits.processing(await debits.invoice(**invoice))
    assert row.credits_on_trust == 0
    row = await debits.refuse(row)
    assert row.debit_failed
    disputed = await debits.pay(await debits.invoice(**invoice))
    await debits.settlement.reverse(ReversalNews("du_1", ReversalKind.DISPUTE, disputed.id, 2900, "lost", AT))
    own = await debits.processing(await debits.invoice())
    assert own.credits_on_trust == CAP


@pytest.mark.parametrize("invoice", [OF_ITS_PAGE, RENEWAL], ids=["page", "renewal"])
async def test_a_claimed_payment_is_the_accounts_own(debits: Debits, invoice: dict[str, Any]) -> None:
    """S41: an account that has claimed a debit answers for it."""
    await named_by_its_payer(debits, claimed_at=AT)
    row = await debits.processing(await debits.invoice(**invoice))
    assert row.credits_on_trust == CAP
    await debits.refuse(row)
    own = await debits.processing(await debits.invoice())
    assert own.credits_on_trust == 0


def test_an_unknown_method_is_a_fault_of_the_plans_file() -> None:
    text = PACKAGED_PLANS.read_bytes() + b"\n[trust]\ncheques = 5\n"
    with pytest.raises(ConfigurationError, match="cheques"):
        parse_catalogue(text)
    parsed = parse_catalogue(PACKAGED_PLANS.read_bytes() + b"\n[trust]\nsepa_debit = 5\n")
    assert (parsed.trust.cap("sepa_debit"), parsed.trust.cap("card"), parsed.trust.cap(None)) == (5, 0, 0)


which = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.sampled_from(["processing", "refuse", "pay", "give_back"]), which),
    st.tuples(st.sampled_from(["spend", "hold"]), st.integers(1, 900)),
    st.tuples(st.just("release"), which),
)


async def _do(debits: Debits, rows: list[Invoice], step: tuple[str, int], held: list[str]) -> None:
    name, value = step
    match name:
        case "spend" | "hold":
            try:
                if name == "spend":
                    await debits.spend(value)
                else:
                    key = f"h{await Reservation.all().count()}"
                    await debits.hold(value, key)
                    held.append(key)
            except InsufficientCredits:
                return
        case "release":
            if held:
                await debits.release(held.pop())
        case _:
            await getattr(debits, name)(rows[value])


async def _check(debits: Debits, rows: list[Invoice]) -> None:
    """The books balance; an invoice never gives more than was quoted; nothing is left after a failure."""
    balance = await debits.balance()
    current = [await Invoice.get(id=row.id) for row in rows]
    paid = sum(QUOTED - row.credits_reversed for row in current if row.settled_at)
    on_trust = sum(row.credits_on_trust for row in current)
    reserved = sum(each.credits for each in await Reservation.filter(state="held"))
    assert balance == paid + on_trust - debits.spent - reserved
    assert on_trust <= CAP
    for row in current:
        grants = await CreditGrant.filter(invoice_id=row.id)
        assert sum(grant.credits for grant in grants) <= QUOTED
        if row.status is not InvoiceStatus.PROCESSING:
            assert row.credits_on_trust == 0
            assert all(grant.remaining == 0 for grant in grants if grant.installment == ledger.ON_TRUST)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, min_size=4, max_size=16))
def test_any_order_of_events_leaves_the_books_right(
    database_url: str, history: list[tuple[str, int]]
) -> None:
    """S37: processing, paid, failed and refunded in any order, with spends and reservations between them."""

    async def play() -> None:
        async with open_database(database_url):
            debits, held = Debits(await an_account()), list[str]()
            await Reservation.all().delete()
            rows = [await debits.invoice() for _ in range(3)]
            for step in history:
                await _do(debits, rows, step, held)
                await _check(debits, rows)

    asyncio.run(play())
