"""Subscriptions: the row is what Stripe answered last, whatever events say and whenever they come (S18)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paidup.db.instances import new_row
from paidup.db.models import Account, StripeEvent, Subscription
from paidup.db.outbound_models import OutboundEvent
from paidup.db.shared_writes import write_unchanged
from paidup.domain.catalog import StripePrice
from paidup.errors import PaidupError, StorageUnavailable, StripeRefused, StripeUnavailable
from paidup.payments.entitlements import standing
from paidup.payments.outcomes import EventOutcome
from paidup.runtime.clock import now
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import (
    ACCOUNT_METADATA_KEY,
    ItemPrice,
    ListOf,
    PendingUpdate,
    StripeInvoice,
    StripeSubscription,
    SubscriptionItem,
)
from paidup.subscriptions import beginnings as beginnings_module
from paidup.subscriptions.beginnings import Beginnings
from paidup.subscriptions.sync import BEGUN, RENEWAL_GRACE, News, SubscriptionSync
from tests.support.factories import an_account, ignore_balance

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
PERIOD_END = BEGIN + timedelta(days=30)
PRICES = {
    name: StripePrice(name, name, name.removeprefix("price_"), 900, "usd")
    for name in ("price_basic", "price_pro")
}


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has an account of its own."""
    return module_database_url


class Stripe:
    """Stripe's side: what it answers, and what came of that here."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.answer: StripeSubscription | None = None
        self.read: list[str] = []
        self.ended: list[str] = []
        self.fails: set[str] = set()

    async def read_subscription(self, subscription: str, max_wait_s: float | None) -> StripeSubscription:
        if self.answer is None:
            raise StripeRefused("No such subscription", code="resource_missing", http_status=404)
        return self.answer

    async def read_invoice(self, invoice: str, **_: Any) -> StripeInvoice:
        if "read" in self.fails:
            raise StripeUnavailable("away")
        self.read.append(invoice)
        return StripeInvoice(invoice, "usd", 900, 900, 0, 0, ListOf([]), 900)

    async def settle(self, *_: Any) -> None:
        pass

    async def draft(self, *_: Any) -> None:
        pass

    async def update_grace(self, subscription: Subscription) -> None:
        pass

    async def publish_balance(self, account: Account) -> None:
        pass

    async def end_subscription(self, subscription: str) -> None:
        if "end" in self.fails:
            raise StorageUnavailable("away")
        self.ended.append(subscription)


@pytest.fixture
def stripe() -> Stripe:
    return Stripe()


@pytest.fixture
def subscriptions(stripe: Stripe) -> SubscriptionSync:
    prices = PriceCatalog(cast(Any, None), cast(Any, None))
    for price in PRICES.values():
        prices.add(price)
    return SubscriptionSync(
        cast(Any, stripe),
        prices,
        cast(Any, stripe),
        cast(Any, stripe),
        cast(Any, SimpleNamespace(on_draft=stripe.draft)),
        lambda: stripe.now,
    )


def shape(
    account: Account, status: str = "active", plan: str = "basic", ends: datetime = PERIOD_END, **more: Any
) -> StripeSubscription:
    item = SubscriptionItem("si_1", ItemPrice(f"price_{plan}"), 1, int(ends.timestamp()))
    return StripeSubscription(
        f"sub_{account.id}", status, str(account.stripe_customer), ListOf([item]), **more
    )


async def row_of(account: Account) -> Subscription:
    return await Subscription.get(id=f"sub_{account.id}")


async def met(subscriptions: SubscriptionSync, account: Account, **more: Any) -> StripeSubscription:
    """Known, and read once at BEGIN."""
    known = shape(account, **more)
    await subscriptions.register(known.id, account)
    await subscriptions.save(known, BEGIN)
    return known


async def test_an_answer_to_an_earlier_question_changes_nothing(
    subscriptions: SubscriptionSync, ada: Account
) -> None:
    """S18: two ask at once; the one who asked first may be answered last."""
    await met(subscriptions, ada)
    await subscriptions.save(shape(ada, plan="pro"), BEGIN + timedelta(seconds=2))
    await subscriptions.save(shape(ada, status="incomplete"), BEGIN + timedelta(seconds=1))
    row = await row_of(ada)
    assert (row.status, row.plan, row.fetched_at) == ("active", "pro", BEGIN + timedelta(seconds=2))


async def test_an_event_that_says_what_is_known_causes_no_question(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    known = await met(subscriptions, ada)
    due = (await row_of(ada)).refresh_at
    assert await subscriptions.on_event(known.id, known) is EventOutcome.UNCHANGED
    assert (await row_of(ada)).refresh_at == due


@pytest.mark.parametrize(
    "news",
    [
        {"status": "canceled"},
        {"status": "incomplete"},
        {"plan": "pro"},
        {"cancel_at": 1_800_000_000},
        {"ended_at": 1_800_000_000},
        {"ends": PERIOD_END + timedelta(days=31)},
        {"latest_invoice": "in_other"},
        {"pending_update": PendingUpdate([SubscriptionItem("si_1", ItemPrice("price_pro"), 1)])},
    ],
    ids=lambda news: next(iter(news)),
)
async def test_an_event_is_never_believed_and_always_looked_into(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe, news: dict[str, Any]
) -> None:
    """S18: whatever it shows that is not known, late or new, Stripe is asked; the row stays till then."""
    known = await met(subscriptions, ada)
    stripe.now += timedelta(days=1)
    assert await subscriptions.on_event(known.id, shape(ada, **news)) is EventOutcome.REFRESH_SCHEDULED
    row = await row_of(ada)
    assert (row.status, row.plan, row.refresh_at) == ("active", "basic", stripe.now)


async def test_an_event_that_shows_nothing_is_looked_into(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    """S19: of another API version."""
    known = await met(subscriptions, ada)
    assert await subscriptions.on_event(known.id, None) is EventOutcome.REFRESH_SCHEDULED
    assert (await row_of(ada)).refresh_at == stripe.now


async def test_what_is_heard_while_stripe_answers_is_looked_into_as_well(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    """S18: the answer may be of before the news. Once it is of after them, nothing is left to be read."""
    known = await met(subscriptions, ada)
    asked_at = stripe.now + timedelta(days=1)
    stripe.now = asked_at + timedelta(seconds=1)
    await subscriptions.on_event(known.id, shape(ada, plan="pro"))
    await subscriptions.save(known, asked_at)
    assert (await row_of(ada)).refresh_at == stripe.now
    await subscriptions.save(shape(ada, plan="pro"), asked_at + timedelta(seconds=2))
    row = await row_of(ada)
    assert (row.plan, row.refresh_at) == ("pro", PERIOD_END + RENEWAL_GRACE)


async def test_one_of_a_strange_customer_is_not_ours(
    subscriptions: SubscriptionSync, ada: Account, database: None
) -> None:
    """S18."""
    stranger = StripeSubscription("sub_strange", "active", "cus_nobody", shape(ada).items)
    assert await subscriptions.on_event(stranger.id, stranger) is EventOutcome.IRRELEVANT
    assert await subscriptions.on_event("sub_unseen", None) is EventOutcome.IRRELEVANT
    assert not await Subscription.exists(id__in=["sub_strange", "sub_unseen"])


async def test_one_that_was_made_past_us_is_read_at_once_even_if_its_invoice_came_first(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    """S18: the invoice's row names it, to be read some time later; the event makes that now."""
    later = stripe.now + timedelta(seconds=20)
    shown = shape(ada, status="trialing")
    await Subscription.create(id=shown.id, account_id=ada.id, refresh_at=later)
    assert await subscriptions.read_known([(shown, True)]) == [News.MORE]
    assert await subscriptions.on_event(shown.id, shown, created=True) is EventOutcome.REFRESH_SCHEDULED
    assert (await row_of(ada)).refresh_at == stripe.now
    assert await subscriptions.read_known([(shown, True)]) == [News.NONE], "it is due"


async def test_what_runs_is_looked_at_again_when_its_renewal_should_have_come(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    """S20: and one whose renewal is late, once an hour."""
    known = await met(subscriptions, ada)
    assert (await row_of(ada)).refresh_at == PERIOD_END + RENEWAL_GRACE
    stripe.now = PERIOD_END + timedelta(days=2)
    stripe.answer = known
    await subscriptions.read(known.id)
    assert (await row_of(ada)).refresh_at == stripe.now + timedelta(hours=1)


async def test_a_renewal_of_which_nobody_told_is_asked_about(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    """S20."""
    known = await met(subscriptions, ada)
    stripe.answer = shape(ada, latest_invoice="in_unknown")
    await subscriptions.read(known.id)
    assert stripe.read == ["in_unknown"]


async def test_what_has_ended_is_asked_about_no_more_and_ends_its_credits(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    """S18."""
    known = await met(subscriptions, ada)
    stripe.answer = shape(ada, status="canceled", ended_at=int(BEGIN.timestamp()))
    await subscriptions.read(known.id)
    row = await row_of(ada)
    assert (row.status, row.ended_at, row.refresh_at) == ("canceled", BEGIN, None)
    assert stripe.ended == [known.id]


@pytest.mark.parametrize("what", ["read", "end"])
async def test_what_fails_on_the_way_is_done_when_it_is_read_again(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe, what: str
) -> None:
    """S13: the row says nothing new before the renewal was taken up, or the credits have ended."""
    known = await met(subscriptions, ada)
    stripe.answer = shape(ada, status="canceled", latest_invoice="in_unknown")
    stripe.fails = {what}
    stripe.now = BEGIN + timedelta(days=1)
    with pytest.raises(PaidupError):
        await subscriptions.read(known.id)
    assert (await row_of(ada)).status == "active"
    stripe.fails = set()
    await subscriptions.read(known.id)
    assert ((await row_of(ada)).status, stripe.ended) == ("canceled", [known.id])
    assert "in_unknown" in stripe.read


async def test_one_that_stripe_does_not_know_is_asked_about_no_more(
    subscriptions: SubscriptionSync, ada: Account, stripe: Stripe
) -> None:
    known = await met(subscriptions, ada)
    assert await subscriptions.read(known.id) is None
    row = await row_of(ada)
    assert (row.status, row.refresh_at) == ("active", None)


async def test_among_several_items_the_one_that_sells_a_plan_counts(
    subscriptions: SubscriptionSync, ada: Account
) -> None:
    support = SubscriptionItem("si_support", ItemPrice("price_support"), 1)
    made = shape(ada)
    both = StripeSubscription(made.id, made.status, made.customer, ListOf([support, *made.items.data]))
    await subscriptions.register(both.id, ada)
    await subscriptions.save(both, BEGIN)
    assert (await row_of(ada)).plan == "basic"


async def test_a_row_of_another_products_subscription_goes_when_it_is_read(
    subscriptions: SubscriptionSync, stripe: Stripe, ada: Account
) -> None:
    """S52: rows of the release before; one that names the account is ours, whatever its price."""
    stripe.answer = shape(ada, plan="support", latest_invoice="in_support")
    await subscriptions.register(f"sub_{ada.id}", ada)
    assert await subscriptions.read(f"sub_{ada.id}") is None
    assert not await Subscription.exists(id=f"sub_{ada.id}")
    assert stripe.read == []
    named = {ACCOUNT_METADATA_KEY: ada.external_id}
    stripe.answer = shape(ada, plan="support", metadata=named)
    await subscriptions.register(f"sub_{ada.id}", ada)
    row = await subscriptions.read(f"sub_{ada.id}")
    assert row is not None
    assert (row.status, row.plan) == ("active", None)


async def test_a_subscription_that_is_another_accounts_is_not_own(
    subscriptions: SubscriptionSync, ada: Account
) -> None:
    bob = await an_account()
    known = await met(subscriptions, ada)
    assert await subscriptions.is_own(known, ada)
    assert not await subscriptions.is_own(known, bob)
    names_bob = shape(bob, metadata={ACCOUNT_METADATA_KEY: bob.external_id})
    assert await subscriptions.is_own(names_bob, bob)
    assert not await subscriptions.is_own(names_bob, ada)


async def test_a_subscription_that_names_a_merged_account_is_the_others(
    subscriptions: SubscriptionSync, ada: Account
) -> None:
    """Also where no invoice of it is credited, as of one that was imported: they are sold no second one."""
    bob = await an_account()
    await Account.filter(id=bob.id).update(merged_into=ada.id)
    names_bob = shape(ada, plan="support", metadata={ACCOUNT_METADATA_KEY: bob.external_id})
    assert await subscriptions.is_own(names_bob, ada)


async def test_a_purchase_that_is_not_paid_hides_no_subscription_that_has_ended(
    subscriptions: SubscriptionSync, ada: Account
) -> None:
    await met(subscriptions, ada, status="canceled")
    await subscriptions.register(f"sub_again_{ada.id}", ada)
    found = await standing(await Account.get(id=ada.id))
    assert (found.plan, found.status) == (None, "canceled")


def handled(account: Account, name: str = "begun") -> StripeEvent:
    """An event that was delivered, and is not stored."""
    told: dict[str, Any] = {"type": "customer.subscription.updated", "payload": "{}", "attempts": 1}
    told |= {"received_at": now(), "handled_at": now(), "outcome": EventOutcome.UNCHANGED}
    return new_row(StripeEvent, id=f"evt_{name}_{account.id}", **told)


async def what_is_known(account: Account) -> Any:
    """All that the beginning of its subscription may change."""
    row, found = await row_of(account), await Account.get(id=account.id)
    events = await OutboundEvent.filter(account_id=account.id).order_by("id")
    columns = (*BEGUN, "fetched_at")
    known = str(found.known_subscriptions).replace(f"sub_{account.id}", "sub")
    return (
        [getattr(row, name) for name in columns],
        (known, found.version, found.balance),
        [(event.type, event.version, event.data) for event in events],
    )


async def test_subscriptions_that_begin_together_are_saved_as_one_is(
    subscriptions: SubscriptionSync, stripe: Stripe, database: None
) -> None:
    """Each with its event, as handled."""
    alone, *others = accounts = [await an_account() for _ in range(4)]
    for account in accounts:
        await met(subscriptions, account, status="incomplete")
    stripe.now += timedelta(seconds=5)
    assert await subscriptions.on_event(f"sub_{alone.id}", shape(alone)) is EventOutcome.UNCHANGED
    assert await subscriptions.read_known([(shape(each), False) for each in others]) == [News.BEGUN] * 3
    told: list[Account] = []

    async def publish_balance(account: Account) -> None:
        told.append(account)

    beginnings = Beginnings(subscriptions, publish_balance)
    saved = await asyncio.gather(*(beginnings(shape(each), handled(each)) for each in others))
    assert saved == [True] * 3
    assert {(each.id, each.version) for each in told} == {(each.id, 1) for each in others}
    for account in others:
        assert (await StripeEvent.get(id=f"evt_begun_{account.id}")).outcome == "unchanged"
        assert await what_is_known(account) == await what_is_known(alone)


async def test_a_beginning_that_does_not_follow_from_its_two_rows_is_left_out(
    subscriptions: SubscriptionSync, stripe: Stripe, database: None
) -> None:
    """Nothing of it is written, and its event is stored first. None of them keeps another one back."""
    names = ("usual", "twice", "second", "changes", "stored", "canceled", "due")
    accounts = {name: await an_account() for name in names}
    for account in accounts.values():
        await met(subscriptions, account, status="incomplete")
    second = f"sub_second_{accounts['second'].id}"
    await subscriptions.register(second, accounts["second"])
    await subscriptions.on_event(f"sub_{accounts['canceled'].id}", None)
    await subscriptions.save(shape(accounts["canceled"], status="canceled"), BEGIN + timedelta(seconds=1))
    await subscriptions.on_event(f"sub_{accounts['due'].id}", None)
    await handled(accounts["stored"]).save(force_create=True)
    before = {name: await what_is_known(account) for name, account in accounts.items()}
    beginnings = Beginnings(subscriptions, ignore_balance)
    waits = PendingUpdate([SubscriptionItem("si_1", ItemPrice("price_pro"), 1)])
    asked = {name: shape(account) for name, account in accounts.items()}
    asked["changes"] = shape(accounts["changes"], pending_update=waits)
    first, *saved = await asyncio.gather(
        beginnings(shape(accounts["twice"]), handled(accounts["twice"], "first")),
        *(beginnings(asked[name], handled(account)) for name, account in accounts.items()),
    )
    assert first
    assert dict(zip(accounts, saved, strict=True)) == {name: name == "usual" for name in names}
    for name, account in accounts.items():
        changed = await what_is_known(account) != before[name]
        assert changed == (name in ("usual", "twice")), name
        stored = await StripeEvent.exists(id=f"evt_begun_{account.id}")
        assert stored == (name in ("usual", "stored")), name


async def test_a_beginning_whose_row_changes_meanwhile_is_left_out(
    subscriptions: SubscriptionSync, monkeypatch: pytest.MonkeyPatch, ada: Account
) -> None:
    """S18: an answer of Stripe's is saved between the two statements."""
    await met(subscriptions, ada, status="incomplete")

    async def late(units: Any) -> list[bool]:
        await subscriptions.save(shape(ada, status="canceled"), BEGIN + timedelta(seconds=9))
        return await write_unchanged(units)

    monkeypatch.setattr(beginnings_module, "write_unchanged", late)
    assert not await Beginnings(subscriptions, ignore_balance)(shape(ada), handled(ada))
    assert (await row_of(ada)).status == "canceled"
    assert not await StripeEvent.exists(id=f"evt_begun_{ada.id}")
