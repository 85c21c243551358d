"""Creates many customers, each with one open first invoice of a monthly plan, and Stripe's events for them.

Customer n is the account `user-n` and Stripe's `cus_n`. No sandbox is used: rows are written directly, and
Stripe's objects are generated from the number.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from paidup.db.models import Account, Invoice, KnownPrice, Subscription
from paidup.domain.plans_toml import parse_catalogue
from paidup.payments.entitlements import to_known
from paidup.runtime.clock import at_unix, now
from paidup.settings import PACKAGED_PLANS
from tests.support.stripe_sandbox import forged_event

MONTH_S = 30 * 24 * 3600
PRICE = "price_paidup_pro_monthly"
AMOUNT_MINOR = 2900
CREDITS = 2000
ROWS_AT_ONCE = 1000


def name_of(number: int) -> str:
    """The id of invoice `number`."""
    return f"in_{number:06d}"


def an_invoice(number: int, created: int, paid: bool) -> dict[str, Any]:
    """Invoice `number` in the API's shape, without its payments. `created` in Unix seconds."""
    line = {
        "id": f"il_{number:06d}",
        "object": "line_item",
        "amount": AMOUNT_MINOR,
        "currency": "usd",
        "quantity": 1,
        "period": {"start": created, "end": created + MONTH_S},
        "pricing": {"price_details": {"price": PRICE}},
        "parent": {"subscription_item_details": {"proration": False}},
    }
    return {
        "id": name_of(number),
        "object": "invoice",
        "status": "paid" if paid else "open",
        "customer": f"cus_{number:06d}",
        "currency": "usd",
        "amount_due": AMOUNT_MINOR,
        "amount_paid": AMOUNT_MINOR if paid else 0,
        "amount_remaining": 0 if paid else AMOUNT_MINOR,
        "total": AMOUNT_MINOR,
        "created": created,
        "number": "PAIDUP01-0001",
        "billing_reason": "subscription_create",
        "status_transitions": {"finalized_at": created},
        "parent": {"subscription_details": {"subscription": f"sub_{number:06d}", "metadata": {}}},
        "lines": {"object": "list", "data": [line], "has_more": False},
    }


def paid_event(number: int, created: int) -> bytes:
    """The bytes of `invoice.paid`."""
    return forged_event("invoice.paid", an_invoice(number, created, paid=True), id=f"evt_{number:06d}")


async def seed(count: int, created: Callable[[int], int]) -> None:
    """Insert `count` customers into the open database. Invoice n was created at `created(n)`, Unix seconds.

    The price is stored, so that a payment is settled without reading prices from Stripe.
    """
    at = now()
    accounts = [
        Account(external_id=f"user-{number}", stripe_customer=f"cus_{number:06d}") for number in range(count)
    ]
    await Account.bulk_create(accounts, batch_size=ROWS_AT_ONCE)
    ids = {each.external_id: each.id for each in await Account.all()}
    invoices = [
        Invoice(
            id=name_of(number),
            account_id=ids[f"user-{number}"],
            customer=f"cus_{number:06d}",
            subscription=f"sub_{number:06d}",
            payment_intent=f"pi_{number:06d}",
            plan="pro",
            price=PRICE,
            billing_reason="subscription_create",
            currency="usd",
            amount_due_minor=AMOUNT_MINOR,
            credits_quoted=CREDITS,
            changed_at=at,
            published_version=1,
            next_check_at=at + timedelta(hours=2),
            created_at=at_unix(created(number)),
        )
        for number in range(count)
    ]
    await Invoice.bulk_create(invoices, batch_size=ROWS_AT_ONCE)
    await _store_subscriptions(accounts, invoices)
    await _store_price()


async def _store_subscriptions(accounts: list[Account], invoices: list[Invoice]) -> None:
    """The subscription of each account, in its row as well, as the checkout leaves them."""
    subscriptions = [
        Subscription(
            id=each.subscription,
            account_id=each.account_id,
            plan=each.plan,
            price=each.price,
            latest_invoice=each.id,
            fetched_at=each.changed_at,
        )
        for each in invoices
    ]
    await Subscription.bulk_create(subscriptions, batch_size=ROWS_AT_ONCE)
    for account, invoice, subscription in zip(accounts, invoices, subscriptions, strict=True):
        account.id = invoice.account_id
        account._saved_in_db = True
        account.known_subscriptions = msgspec.to_builtins(to_known([subscription]))
    await Account.bulk_update(accounts, ["known_subscriptions"], batch_size=ROWS_AT_ONCE)


async def _store_price() -> None:
    lookup_key = PRICE.removeprefix("price_")
    found = parse_catalogue(PACKAGED_PLANS.read_bytes()).find_by_lookup_key(lookup_key)
    assert found is not None
    plan, price = found
    await KnownPrice.create(
        id=PRICE,
        lookup_key=lookup_key,
        plan=plan.id,
        unit_amount_minor=price.amount_minor,
        currency=price.currency,
        interval=price.interval,
    )
