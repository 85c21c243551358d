"""Until when unused credits can be used while a renewal is under way: the rule, and random renewals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from paidup.credits import ledger, reservations
from paidup.credits.reversals import ReversalNews
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import Account, CreditGrant, LedgerEntry, ReversalKind, Subscription
from paidup.db.shared_writes import VersionedRows, write_unchanged
from paidup.domain.billing_months import add_months
from paidup.domain.catalog import Catalogue, Plan, PlanPrice, Rollover, StripePrice
from paidup.domain.payment_facts import InvoiceFacts, LineFacts, PaymentFacts, Source
from paidup.domain.renewals import RETRIES_LAST_AT_MOST, RenewalFacts, usable_until
from paidup.payments import settlement_batches
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.runtime.clock import at_unix, now
from paidup.runtime.metrics import Metrics
from tests.support.billing_simulator import BEGIN
from tests.support.factories import an_account, ignore_balance, three_sums

END = datetime(2026, 12, 26, 9, tzinfo=UTC)
DAY = timedelta(days=1)
LATER = END + 31 * DAY
CAP = 400
EXPIRING = Plan("basic", "Basic", 500, (PlanPrice("basic", 900),), rollover=Rollover.EXPIRE)
CAPPED = replace(EXPIRING, rollover=Rollover.CAP, rollover_cap=CAP)
RETRYING = replace(EXPIRING, grace_while_retrying=True)
PRICES = {"basic": StripePrice("basic", "basic", "basic", 900, "usd")}
HOUR_S = 3600


@pytest.mark.parametrize(
    ("plan", "known", "grace"),
    [
        (EXPIRING, RenewalFacts("active"), 3 * DAY),
        (CAPPED, RenewalFacts("past_due"), 3 * DAY),
        (replace(EXPIRING, renewal_grace_hours=5), RenewalFacts("active"), timedelta(hours=5)),
        (EXPIRING, RenewalFacts("active", cancel_at=LATER, paid_until=END), 3 * DAY),
        (RETRYING, RenewalFacts("past_due"), RETRIES_LAST_AT_MOST),
        (RETRYING, RenewalFacts("active"), 3 * DAY),
        (None, RenewalFacts("active"), None),
        (replace(EXPIRING, rollover=Rollover.KEEP), RenewalFacts("active"), None),
        (replace(EXPIRING, renewal_grace_hours=0), RenewalFacts("active"), None),
        (EXPIRING, RenewalFacts("active", paid_until=LATER), None),
        (RETRYING, RenewalFacts("past_due", failed_until=LATER), None),
        (EXPIRING, RenewalFacts("active", cancel_at=END), None),
        *((RETRYING, RenewalFacts(over), None) for over in ("canceled", "unpaid", "paused")),
    ],
)
def test_the_grace_of_a_period(plan: Plan | None, known: RenewalFacts, grace: timedelta | None) -> None:
    """S50: as long as the plan says, where a renewal may still come."""
    assert usable_until(END, plan, known) == (None if grace is None else END + grace)


@dataclass(frozen=True)
class Month:
    """Percents of what there is are spent before its end and in the grace; it is renewed `collected_h` later.

    `synced_h` after its end, Stripe shows the subscription as `status`.
    """

    spent: int
    spent_in_grace: int
    collected_h: int
    synced_h: int
    status: str


MONTHS = st.lists(
    st.builds(
        Month,
        spent=st.sampled_from([0, 30, 99]),
        spent_in_grace=st.sampled_from([0, 0, 50, 100]),
        collected_h=st.integers(0, 71),
        synced_h=st.integers(0, 71),
        status=st.sampled_from(["active", "past_due"]),
    ),
    min_size=1,
    max_size=4,
)


class Renewing:
    """A customer whose plan is in good standing: each renewal is a draft, or is retried, and is paid."""

    def __init__(self, account: Account, plan: Plan) -> None:
        self.account, self.plan = account, plan
        self.at, self.start, self.spends = BEGIN, BEGIN, 0
        self.given = self.spent = 0
        self.subscription = f"sub_grace_{account.id}"
        self.settlement = Settlement(
            Catalogue((plan,)),
            PRICES,
            _untold,
            ignore_balance,
            Timeline(),
            Metrics(),
            lambda: at_unix(self.at),
        )

    async def pay(self, reason: str, status: str = "paid") -> None:
        await self.settlement.settle(self.facts(reason, status), Source.WEBHOOK)
        self.given += self.plan.credits
        self.start = add_months(self.start, 1)

    def facts(self, reason: str, status: str) -> PaymentFacts:
        """Of the invoice for the month from `start` on."""
        end, paid_minor = add_months(self.start, 1), 900 if status == "paid" else 0
        line = LineFacts("basic", 900, 1, False, self.start, end)
        invoice = InvoiceFacts(
            id=f"in_grace_{self.account.id}_{self.start}",
            status=status,
            customer=self.account.stripe_customer,
            currency="usd",
            amount_due_minor=900,
            amount_paid_minor=paid_minor,
            amount_remaining_minor=900 - paid_minor,
            total_minor=900,
            from_balance_minor=0,
            finalized_at=self.at,
            sequence=1,
            billing_reason=reason,
            subscription=self.subscription,
            created=self.start,
            lines=(line,),
        )
        return PaymentFacts(invoice)

    async def balance(self) -> int:
        async with write_transaction():
            account = await ledger.lock_account(self.account.id)
            await ledger.expire_due(account, at_unix(self.at))
        balance, entries, live = await three_sums(self.account.id)
        assert balance == entries == live
        return balance

    async def spend(self, percent: int) -> None:
        credits = await self.balance() * percent // 100
        if credits:
            self.spends += 1
            async with write_transaction():
                account = await ledger.lock_account(self.account.id)
                await ledger.spend(account, credits, f"spend-{self.spends}", at_unix(self.at))
            self.spent += credits

    async def sync(self, status: str) -> None:
        row = await Subscription.get(id=self.subscription)
        row.status = status
        await row.save()
        await self.settlement.update_grace(row)

    async def live_through(self, month: Month) -> None:
        """To the end of the period, through the draft's hours, and past the renewal."""
        await self.spend(month.spent)
        unspent = await self.balance()
        end = self.start
        for hour in sorted({0, month.synced_h, month.collected_h // 2, month.collected_h}):
            if hour > month.collected_h:
                break
            self.at = end + hour * HOUR_S
            assert await self.balance() == unspent > 0, f"locked out {hour} hours after the period's end"
            if hour == month.synced_h:
                await self.sync(month.status)
        await self.spend(month.spent_in_grace)
        left = await self.balance()
        await self.pay("subscription_cycle")
        kept = min(left, self.plan.rollover_cap)
        assert await self.balance() == kept + self.plan.credits
        await self.sync("active")
        assert await self.balance() == kept + self.plan.credits


async def _untold(_: object) -> bool:
    return False


async def _renewals(plan: Plan, months: list[Month]) -> None:
    customer = Renewing(await an_account("renewing"), plan)
    await customer.pay("subscription_create")
    for month in months:
        await customer.live_through(month)
    entries = await LedgerEntry.filter(account_id=customer.account.id)
    given = sum(entry.credits for entry in entries if entry.kind == "grant")
    assert given == customer.given, "a grace gives nothing"
    assert customer.spent <= given


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


@pytest.mark.parametrize("plan", [EXPIRING, CAPPED, RETRYING], ids=["expire", "cap", "while retrying"])
def test_nobody_in_good_standing_is_locked_out(database_url: str, plan: Plan) -> None:
    """S50: the calendar alone takes no credits while a renewal is awaited, and the grace gives none."""
    with asyncio.Runner() as runner:
        opened = open_database(database_url)
        runner.run(opened.__aenter__())

        @hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(months=MONTHS)
        def check(months: list[Month]) -> None:
            runner.run(_renewals(plan, months))

        try:
            check()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def _credits_return(plan: Plan, how: str) -> None:
    """All credits are gone as the renewal settles within the grace; then those of the old period return."""
    customer = Renewing(await an_account("returning"), plan)
    first, key = f"in_grace_{customer.account.id}_{BEGIN}", f"held-{customer.account.id}"
    await customer.pay("subscription_create")

    async def refund(status: str) -> None:
        id = f"re_{customer.account.id}"
        await customer.settlement.reverse(ReversalNews(id, ReversalKind.REFUND, first, 900, status, now()))

    if how == "failed refund":
        await refund("pending")
    else:
        async with write_transaction():
            account = await ledger.lock_account(customer.account.id)
            await reservations.reserve(account, plan.credits, key, LATER + DAY, at_unix(customer.at))
    customer.at = customer.start + HOUR_S
    await customer.pay("subscription_cycle")
    if how == "failed refund":
        await refund("failed")
    else:
        async with write_transaction():
            account = await ledger.lock_account(customer.account.id)
            await reservations.release(account, key, at_unix(customer.at))
    assert await customer.balance() == plan.rollover_cap + plan.credits


@pytest.mark.parametrize("plan", [EXPIRING, CAPPED], ids=["expire", "cap"])
@pytest.mark.parametrize("how", ["failed refund", "released"])
async def test_credits_that_return_after_the_renewal_have_no_grace(
    database_url: str, plan: Plan, how: str
) -> None:
    """S50: what a reservation or a failed refund returns belongs to a period that is over."""
    async with open_database(database_url):
        await _credits_return(plan, how)


async def test_credits_that_return_to_an_unpaid_subscription_have_no_grace(database_url: str) -> None:
    """S50: all were reserved when the subscription was read as unpaid; released, they have expired."""
    async with open_database(database_url):
        customer = Renewing(await an_account("unpaid"), EXPIRING)
        key = f"held-{customer.account.id}"
        await customer.pay("subscription_create")
        async with write_transaction():
            account = await ledger.lock_account(customer.account.id)
            await reservations.reserve(account, EXPIRING.credits, key, LATER + DAY, at_unix(customer.at))
        customer.at = customer.start + HOUR_S
        await customer.sync("unpaid")
        async with write_transaction():
            account = await ledger.lock_account(customer.account.id)
            await reservations.release(account, key, at_unix(customer.at))
        assert await customer.balance() == 0


@pytest.mark.parametrize("module_database_url", ["postgres"], indirect=True)
async def test_a_renewal_ends_the_grace_of_credits_that_came_as_it_was_settled(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S50: no grant awaited it when it was read; the first payment is credited before it is written."""
    async with open_database(database_url):
        customer = Renewing(await an_account("overtaken"), EXPIRING)
        first = customer.facts("subscription_create", "paid")
        await customer.pay("subscription_create", "open")
        customer.at = customer.start + HOUR_S
        renewal = customer.facts("subscription_cycle", "paid")
        await customer.pay("subscription_cycle", "open")
        other = Renewing(customer.account, EXPIRING)
        other.at = customer.at
        written: list[list[bool]] = []

        async def late(units: Sequence[VersionedRows]) -> list[bool]:
            if not written:
                written.append([])
                await other.settlement.settle(first, Source.RECONCILIATION)
            written.append(await write_unchanged(units))
            return written[-1]

        monkeypatch.setattr(settlement_batches, "write_unchanged", late)
        await customer.settlement.settle(renewal, Source.WEBHOOK)
        assert written[-1] == [False]
        assert await customer.balance() == EXPIRING.credits
        assert not await CreditGrant.filter(
            account_id=customer.account.id, usable_until__lte=at_unix(customer.start)
        ).exists()
