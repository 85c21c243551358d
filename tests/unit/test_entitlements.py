"""What the subscriptions of an account give: of each status, of several, and of the plans file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from paidup.credits import ledger
from paidup.db.connection import write_transaction
from paidup.db.models import Account, Subscription
from paidup.domain.catalog import Catalogue, Plan, PlanPrice
from paidup.domain.entitlements import (
    KnownSubscription,
    PaidInvoiceOf,
    Standing,
    after_payment,
    rights_of,
    standing_of,
)
from paidup.domain.payment_facts import Source
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import ConfigurationError
from paidup.payments import entitlements
from paidup.payments.outcomes import Outcome
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.runtime.metrics import Metrics
from tests.support.factories import an_account, an_invoice, ignore_balance
from tests.support.provisioning import paid

END = datetime(2026, 12, 1, tzinfo=UTC)
BASE = KnownSubscription("sub_1", "active", "pro", None, "in_1", 1, END, None)


def subscription(**changes: Any) -> KnownSubscription:
    return msgspec.structs.replace(BASE, **changes)


@pytest.mark.parametrize("status", ["active", "trialing", "past_due"])
def test_a_subscription_in_good_standing_gives_its_plan(status: str) -> None:
    assert standing_of([subscription(status=status)]) == Standing("pro", ("pro",), status, 1, END, None)


@pytest.mark.parametrize("status", ["unpaid", "paused", "canceled"])
def test_any_other_gives_nothing_and_says_why(status: str) -> None:
    assert standing_of([subscription(status=status)]) == Standing(None, (), status, 0, None, None)


@pytest.mark.parametrize("status", ["incomplete", "incomplete_expired"])
def test_one_that_was_never_paid_is_none(status: str) -> None:
    assert (
        standing_of([subscription(status=status)])
        == standing_of([])
        == Standing(None, (), None, 0, None, None)
    )


def test_the_newest_in_good_standing_comes_first() -> None:
    newest = subscription(id="sub_3", status="incomplete", plan="team")
    second = subscription(id="sub_2", plan="team", quantity=4)
    found = standing_of([newest, second, BASE])
    assert (found.plan, found.plans, found.quantity) == ("team", ("team", "pro"), 4)


def test_one_that_ends_with_its_period_does_not_renew() -> None:
    assert standing_of([subscription(cancel_at=END)]).renews_at is None
    later = standing_of([subscription(cancel_at=END + timedelta(days=31))])
    assert (later.renews_at, later.cancel_at) == (END, END + timedelta(days=31))


def test_a_payment_begins_a_subscription_or_changes_its_plan() -> None:
    paid = PaidInvoiceOf("in_1", "sub_1", "pro", with_money=True, changes_plan=False)
    begun = subscription(status="incomplete")
    assert after_payment((begun,), paid)[0].status == "active"
    registered = subscription(status="incomplete", plan=None)
    assert after_payment((registered,), paid)[0].plan == "pro", "its row was made by an event"
    trial = msgspec.structs.replace(paid, with_money=False)
    assert after_payment((begun,), trial) == (begun,), "a trial is read from Stripe"
    assert after_payment((begun,), msgspec.structs.replace(paid, subscription="sub_2")) == (begun,)
    changing, change = subscription(pending_plan="team"), msgspec.structs.replace(paid, changes_plan=True)
    (changed,) = after_payment((changing,), change)
    assert (changed.plan, changed.pending_plan) == ("team", None)
    older = msgspec.structs.replace(change, id="in_0")
    assert after_payment((changing,), older) == after_payment((changing,), paid) == (changing,)


PLAN = """
[[plans]]
id = "{id}"
name = "A plan"
credits = 1
{more}
prices = [{{lookup_key = "{id}", amount_minor = 1, interval = "{interval}"}}]
"""


def plan(name: str, more: str = "", interval: str = "month") -> str:
    return PLAN.format(id=name, more=more, interval=interval)


def test_the_rights_of_several_plans_add_up() -> None:
    of_basic = 'features = ["api", "mail"]\nlimits = {seats = 7, projects = 3, files = "unlimited"}'
    of_pro = 'features = ["export", "api"]\nlimits = {seats = 5, projects = "unlimited", files = 1}'
    catalogue = parse_catalogue((plan("basic", of_basic) + plan("pro", of_pro)).encode())
    found = rights_of(["basic", "pro", "a plan that is gone"], catalogue)
    assert found.features == ("api", "export", "mail")
    assert found.limits == {"files": "unlimited", "projects": "unlimited", "seats": 7}
    assert rights_of([], catalogue).features == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            plan("pro", "limits = {seats = -1}"),
            'line 6: plans[0].limits.seats: Expected a whole number from 0 on, or "unlimited", got -1',
        ),
        (plan("pro", "limits = {seats = 1.5}"), 'Expected a whole number from 0 on, or "unlimited", got 1.5'),
        (plan("pro", 'limits = {seats = "lots"}'), "got 'lots'"),
        (plan("pro", 'limits = {"Seats!" = 1}'), "limits.Seats!: Expected a name of at most 60 lower-case"),
        (plan("pro", 'features = ["A b"]'), "line 6: plans[0].features: Expected `str` matching regex"),
        (plan("pro", 'features = ["api", "api"]'), "features: named twice: api"),
        (plan("pro", "low_balance = -1"), "low_balance: Expected `int` >= 0"),
        (
            plan("extra", 'features = ["api"]', "once"),
            "only a plan with a recurring price has them, no top-up",
        ),
        (
            plan("extra", "limits = {seats = 1}", "once"),
            "plans[0].limits: only a plan with a recurring price",
        ),
    ],
)
def test_a_fault_in_the_plans_file_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_catalogue(text.encode())
    (problem,) = caught.value.problems
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_first_payment_reads_no_subscription(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One statement settles it, as before: the account's row has what follows from it."""

    async def published(_: object) -> bool:
        return True

    async def settled_locked(*_: object) -> None:
        raise AssertionError("it took a transaction of several statements")

    catalogue = Catalogue((Plan("pro", "Pro", 2000, (PlanPrice("pro", 2900),)),))
    settlement = Settlement(catalogue, {}, published, ignore_balance, Timeline(), Metrics())
    monkeypatch.setattr(settlement, "_settle_locked", settled_locked)
    account = await an_account()
    begun = await Subscription.create(id=f"sub_{account.id}", account_id=account.id, status="incomplete")
    async with write_transaction():
        await entitlements.refresh(await ledger.lock_account(account.id))
    invoice = await an_invoice(
        account, subscription=begun.id, billing_reason="subscription_create", total_minor=2900
    )
    assert (await settlement.settle(paid(invoice), Source.WEBHOOK)).outcome is Outcome.SETTLED
    found = await entitlements.standing(await Account.get(id=account.id))
    assert (found.plan, found.status) == ("pro", "active")


async def test_the_version_grows_where_the_answer_changes_and_nothing_else_has_raised_it(
    database: None,
) -> None:
    """Else a page, and a cache, would take the new answer for one that they know."""
    account = await an_account()
    await Subscription.create(id="sub_1", account_id=account.id, status="active", plan="pro")
    for changes, raised_before, grown in (
        ({}, 0, 0),  # the first time: nobody was told another answer
        ({"status": "past_due"}, 0, 1),
        ({"latest_invoice": "in_2"}, 0, 0),
        ({"quantity": 3}, 1, 0),
        ({"status": "canceled"}, 0, 1),
    ):
        async with write_transaction():
            locked = await ledger.lock_account(account.id)
            since = locked.version
            await Subscription.filter(id="sub_1").update(**(changes or {"status": "active"}))
            locked.version += raised_before
            await entitlements.refresh(locked, since)
            assert locked.version == since + raised_before + grown, changes
        assert (await Account.get(id=account.id)).version == since + raised_before + grown, changes
