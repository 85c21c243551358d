"""`paidup import`: subscriptions that were there before Paidup are taken up; their past is not credited."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from paidup.db.customers import account_id_of
from paidup.db.models import Account, CreditGrant, Invoice, StripeCustomer, Subscription, Watermark
from paidup.operations.import_subscriptions import ImportOptions, ImportReport, SubscriptionImport
from paidup.payments.outcomes import Outcome
from paidup.runtime.clock import now
from paidup.services import Services
from tests.conftest import World
from tests.operators.conftest import Run, document, paid_elsewhere
from tests.support.ledger_asserts import assert_books_balance, row_counts
from tests.support.stripe_sandbox import StripeSide, forged_event


async def imported(services: Services, **options: Any) -> ImportReport:
    report = ImportReport()
    parts = (services.gateway, services.prices, services.subscriptions, services.verification)
    await SubscriptionImport(*parts, services.clock, ImportOptions(**options), report).run()
    return report


async def scan(services: Services) -> None:
    """Everything that looks at Stripe's lists, from the beginning."""
    await Watermark.all().delete()
    await services.reconciler.sweep()


async def foreign_price(stripe_side: StripeSide) -> str:
    form = {"currency": "usd", "unit_amount": 900, "lookup_key": "support"}
    named = {"recurring[interval]": "month", "product_data[name]": "Support"}
    await stripe_side.api("POST", "prices", **form, **named)
    return "support"


async def subscribers(stripe_side: StripeSide) -> dict[str, str]:
    """One subscription for each way to find its account, and others; the customers by name."""
    known, by_subscription, by_customer, by_own_key, nobodys = [
        await stripe_side.customer(**form)
        for form in ({}, {}, {"metadata[paidup_account]": "cleo"}, {"metadata[user_id]": "dora"}, {})
    ]
    await Account.create(external_id="ada", stripe_customer=known)
    await paid_elsewhere(stripe_side, known)
    await paid_elsewhere(stripe_side, by_subscription, **{"metadata[paidup_account]": "bea"})
    for customer in (by_customer, by_own_key, nobodys):
        await paid_elsewhere(stripe_side, customer)
    await paid_elsewhere(stripe_side, nobodys, await foreign_price(stripe_side))
    await stripe_side.subscribe(nobodys, "basic")
    names = ("ada", "bea", "cleo", "dora", "nobody")
    return dict(zip(names, (known, by_subscription, by_customer, by_own_key, nobodys), strict=True))


async def test_existing_subscriptions_are_taken_up(services: Services, stripe_side: StripeSide) -> None:
    """S51: they were there before Paidup: followed from now on, their renewals credited, their past not."""
    customers = await subscribers(stripe_side)
    found = {"taken_up": 4, "unknown_account": 1, "not_ours": 1, "not_running": 1}
    before = await row_counts()
    report = await imported(services, account_metadata="user_id", dry_run=True)
    assert report.outcomes == found
    assert await row_counts() == before
    assert await Subscription.all().count() == 0
    report = await imported(services, account_metadata="user_id")
    assert (report.outcomes, report.credits, report.complete) == (found, 0, False)
    assert [each.customer for each in report.without_account] == [customers["nobody"]]
    for name in ("ada", "bea", "cleo", "dora"):
        account = await Account.get(external_id=name)
        assert await account_id_of(customers[name]) == account.id
        row = await Subscription.get(account_id=account.id)
        assert (row.status, row.plan) == ("active", "pro")
    await scan(services)
    assert await CreditGrant.all().count() == 0, "nothing of the past, whichever source finds it"
    report = await imported(services, account_metadata="user_id")
    assert report.outcomes == {"already_known": 4, "unknown_account": 1, "not_ours": 1, "not_running": 1}
    row = await Subscription.get(account__external_id="dora")
    renewal = await stripe_side.control(f"subscriptions/{row.id}/renew")
    await scan(services)
    assert (await Account.get(external_id="dora")).balance == 2000
    assert (await Invoice.get()).id == renewal["id"]
    await assert_books_balance(grants=1)


async def test_an_imported_subscriber_is_sold_no_second_subscription(
    world: World, stripe_side: StripeSide
) -> None:
    """S51: they are told that they are subscribed."""
    paidup = await world.server(webhooks=False)
    await paid_elsewhere(stripe_side, await stripe_side.customer(), **{"metadata[paidup_account]": "ada"})
    await imported(paidup.services)
    status, problem = await paidup.customer("ada").call("POST", "/api/subscriptions", {"plan": "pro"})
    assert (status, problem["type"].rpartition("/")[2]) == (409, "already-subscribed")


async def test_the_current_period_is_credited_once_where_asked(
    services: Services, stripe_side: StripeSide
) -> None:
    """S51: after an import without it as well; a dry run says how much."""
    customer = await stripe_side.customer()
    await paid_elsewhere(stripe_side, customer, **{"metadata[paidup_account]": "ada"})
    await imported(services)
    report = await imported(services, credit_current_period=True, dry_run=True)
    assert (report.credited, report.credits, await CreditGrant.all().count()) == (1, 2000, 0)
    report = await imported(services, credit_current_period=True)
    assert (report.credited, report.credits) == (1, 2000)
    report = await imported(services, credit_current_period=True)
    assert (report.credited, report.credits) == (0, 0)
    await scan(services)
    assert (await Account.get(external_id="ada")).balance == 2000
    await assert_books_balance(grants=1)


async def test_a_renewal_that_is_unpaid_at_the_import_is_credited_when_it_is_paid(
    services: Services, stripe_side: StripeSide
) -> None:
    """S51: the payments before it are past; this one is not."""
    customer = await stripe_side.customer()
    first = await paid_elsewhere(stripe_side, customer, **{"metadata[paidup_account]": "ada"})
    invoice = await stripe_side.api("GET", f"invoices/{first}")
    subscription = invoice["parent"]["subscription_details"]["subscription"]
    declined = await stripe_side.api(
        "POST", "payment_methods/pm_card_chargeCustomerFail/attach", customer=customer
    )
    form = {"default_payment_method": declined["id"]}
    await stripe_side.api("POST", f"subscriptions/{subscription}", **form)
    renewal = await stripe_side.control(f"subscriptions/{subscription}/renew")
    assert renewal["status"] == "open"
    report = await imported(services, credit_current_period=True)
    assert (report.outcomes, report.credits) == ({"taken_up": 1}, 0)
    await Subscription.all().update(created_at=now() + timedelta(hours=1))  # as if its past were longer ago
    await scan(services)
    assert (await Account.get(external_id="ada")).balance == 0
    card = await stripe_side.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    await stripe_side.api("POST", f"invoices/{renewal['id']}/pay", payment_method=card["id"])
    await scan(services)
    assert (await Account.get(external_id="ada")).balance == 2000
    assert (await Invoice.get()).id == renewal["id"]


async def test_an_event_of_the_past_is_handled_and_credits_nothing(
    world: World, stripe_side: StripeSide
) -> None:
    """S51: it was parked before the import, say; afterwards it rings no alarm."""
    paidup = await world.server(webhooks=False)
    invoice = await paid_elsewhere(
        stripe_side, await stripe_side.customer(), **{"metadata[paidup_account]": "ada"}
    )
    body = forged_event("invoice.paid", await stripe_side.api("GET", f"invoices/{invoice}"))
    await imported(paidup.services)
    assert await paidup.webhook(body) == (200, {"received": True, "outcome": Outcome.PAID_ELSEWHERE})
    assert await paidup.customer("ada").balance() == 0


async def test_a_customer_of_another_account_stays_there(services: Services, stripe_side: StripeSide) -> None:
    """The metadata names Ada, and the customer is Bob's: the subscription alone becomes Ada's."""
    bobs = await stripe_side.customer()
    bob = await Account.create(external_id="bob", stripe_customer=bobs)
    await StripeCustomer.create(id=bobs, account_id=bob.id)
    await paid_elsewhere(stripe_side, bobs, **{"metadata[paidup_account]": "ada"})
    assert (await imported(services)).outcomes == {"taken_up": 1}
    assert await account_id_of(bobs) == bob.id
    row = await Subscription.get().select_related("account")
    assert (row.account.external_id, row.account.stripe_customer) == ("ada", None)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_command_prints_a_report(run: Run, stripe_side: StripeSide) -> None:
    named = {"metadata[paidup_account]": "ada"}
    await paid_elsewhere(stripe_side, await stripe_side.customer(), **named)
    code, output = await run("import", "--credit-current-period", "--dry-run", "--json")
    assert code == 0
    report = document(output)
    assert report["outcomes"] == {"taken_up": 1}
    assert (report["dry_run"], report["credited"], report["credits"]) == (True, 1, 2000)
    code, output = await run("import")
    assert code == 0, output
    assert "0 credits granted for 0 current periods: nothing is credited for the past" in output
    nobodys = await stripe_side.customer()
    await paid_elsewhere(stripe_side, nobodys)
    code, output = await run("import")
    assert code == 1
    assert f"of {nobodys}: no account" in output
