"""Accounts with long histories, and what an account does, each thing as often as it is asked for.

A history is made by a few statements of SQL, so it may have any size: paid top-ups that are used up, top-ups
with credits left, spends and committed reservations. The books are in order.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count

import msgspec
from starlette.applications import Starlette

from paidup.client import backend_token
from paidup.credits import ledger
from paidup.credits.audit import audit_slice
from paidup.credits.requested_moves import Commit, Reserve, Spend
from paidup.credits.reversals import ReversalNews
from paidup.db.connection import connection, write_transaction
from paidup.db.models import Account, Invoice, ReversalKind, Subscription
from paidup.domain.catalog import StripePrice
from paidup.domain.payment_facts import Source
from paidup.operations.account_report import report_account
from paidup.operations.explain import explain
from paidup.payments.entitlements import refresh
from paidup.payments.outcomes import Outcome
from paidup.runtime.clock import now
from paidup.services import Services
from paidup.stripe_api.schemas import StripeInvoice, decode
from tests.support import bulk_fixtures
from tests.support.asgi import ask
from tests.support.paidup import JWT_SECRET

WORTH = 100
"""Credits of each top-up."""
LAST_YEAR = "2025-06-01 12:00:00+00:00"
_numbers = count(time.time_ns() // 1_000_000 % 1_000_000_000)
"""Others than those of a run before, whose database a benchmark may use again."""


class History(msgspec.Struct, frozen=True):
    """How many top-ups are used up, how many have credits left, and how many other entries there are.

    There are as many Checkout Sessions and ended subscriptions as top-ups that are used up.
    """

    used_up: int = 0
    live: int = 0
    spends: int = 0

    @property
    def entries(self) -> int:
        return self.used_up + self.live + self.spends


_COUNTED = "WITH RECURSIVE of(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM of WHERE n < {last}) "
_HISTORY = (
    _COUNTED.replace("{last}", "{topups}")
    + """INSERT INTO invoices (id, account_id, customer, payment_intent, plan, currency, amount_due_minor,
    total_minor, credits_quoted, status, version, published_version, changed_at, settled_via, settled_at,
    checks_made, created_at)
SELECT 'in_{account}_' || n, {account}, 'cus_g{account}', 'pi_{account}_' || n, 'pro', 'usd', 400, 400,
    {worth}, 'active', 2, 2, '{then}', 'webhook', '{then}', 1, '{then}' FROM of""",
    _COUNTED.replace("{last}", "{topups}")
    + """INSERT INTO credit_grants (account_id, invoice_id, installment, plan, credits, remaining, state,
    created_at)
SELECT {account}, 'in_{account}_' || n, 1, 'pro', {worth}, CASE WHEN n > {used_up} THEN {worth} ELSE 0 END,
    'live', '{then}' FROM of""",
    """INSERT INTO ledger_entries (account_id, kind, credits, grant_id, reference, reason, balance_after,
    created_at)
SELECT {account}, 'grant', {worth}, id, invoice_id || ':1', 'pro, paid', {worth}, '{then}'
FROM credit_grants WHERE account_id = {account}""",
    _COUNTED.replace("{last}", "{spends}")
    + """INSERT INTO ledger_entries (account_id, kind, credits, reference, reason, balance_after, created_at)
SELECT {account}, 'spend', CASE WHEN n = {spends} THEN {spends} - 1 - {spent} ELSE -1 END,
    '{account}:old-' || n, '', 0, '{then}' FROM of""",
    _COUNTED.replace("{last}", "{used_up}")
    + """INSERT INTO reservations (account_id, key, credits, used, sources, state, expires_at, created_at)
SELECT {account}, 'old-' || n, 1, 1, '[]', 'committed', '{then}', '{then}' FROM of""",
    _COUNTED.replace("{last}", "{used_up}")
    + """INSERT INTO checkout_sessions (id, account_id, mode, purchase, status, payment_status, quantity,
    invoice, expires_at, completed_at, checks_made, created_at)
SELECT 'cs_{account}_' || n, {account}, 'payment', 'pack', 'complete', 'paid', 1, 'in_{account}_' || n,
    '{then}', '{then}', 1, '{then}' FROM of""",
    _COUNTED.replace("{last}", "{used_up}")
    + """INSERT INTO subscriptions (id, account_id, status, plan, quantity, created_at)
SELECT 'sub_{account}_' || n, {account}, 'canceled', 'pro', 1, '{then}' FROM of""",
)


async def add_history(account: Account, history: History) -> None:
    """Give the account, which is new, a past. Not where nothing is asked for."""
    if not history.entries:
        return
    assert history.used_up * WORTH >= history.spends > 0
    given = {
        "account": account.id,
        "topups": history.used_up + history.live,
        "used_up": history.used_up,
        "spends": history.spends,
        "spent": history.used_up * WORTH,
        "worth": WORTH,
        "then": LAST_YEAR,
    }
    for statement in _HISTORY:
        await connection().execute_script(statement.format(**given))
    await Account.filter(id=account.id).update(balance=history.live * WORTH)


async def a_customer(history: History) -> Account:
    """A customer with this past, a subscription, and its first invoice, which is paid."""
    number = next(_numbers)
    account = await Account.create(external_id=f"grown-{number}", stripe_customer=f"cus_grown_{number}")
    await add_history(account, history)
    subscription = f"sub_grown_{number}"
    await Subscription.create(id=subscription, account_id=account.id, status="active", plan="pro")
    async with write_transaction():
        await refresh(await ledger.lock_account(account.id))
    return account


Action = Callable[[], Awaitable[object]]


class Doing:
    """What one account does, again and again. `name`d as in `actions`."""

    def __init__(self, app: Starlette, account: Account) -> None:
        self._app = app
        self._services: Services = app.state.services
        self._account = account
        self._paid: list[str] = []
        token = backend_token(JWT_SECRET, account.external_id, ttl_s=36_000)
        self._headers = [(b"authorization", f"Bearer {token}".encode())]
        price = StripePrice(bulk_fixtures.PRICE, "paidup_pro_monthly", "pro", 2900, "usd")
        self._services.prices.add(price)

    @property
    def actions(self) -> dict[str, Action]:
        return {
            "settle a payment": self.settle,
            "settle a renewal": self.renew,
            "refund a payment": self.refund,
            "spend": self.spend,
            "reserve": self.reserve,
            "reserve and commit": self.commit,
            "refresh the entitlements": self.refresh,
            "GET /api/account": lambda: self.get("/api/account"),
            "GET /api/entitlements": lambda: self.get("/api/entitlements"),
            "GET /api/account/entries": lambda: self.get("/api/account/entries"),
            "GET /api/credits": lambda: self.get("/api/credits"),
            "paidup explain": lambda: explain(self._account.external_id),
            "the operators' page of it": lambda: report_account(self._account.external_id),
            "a slice of the audit": lambda: audit_slice(self._account.id - 1, 1),
            "GET /api/account/entries.csv": lambda: self.get("/api/account/entries.csv"),
        }

    async def settle(self, subscription: str | None = None) -> None:
        number = next(_numbers)
        created = int(now().timestamp())
        shape = bulk_fixtures.an_invoice(number, created, paid=True)
        shape["id"], shape["customer"] = f"in_grown_{number}", self._account.stripe_customer
        shape["billing_reason"] = "subscription_cycle" if subscription else "manual"
        shape["parent"] = subscription and {
            "subscription_details": {"subscription": subscription, "metadata": {}}
        }
        facts = decode(StripeInvoice, msgspec.json.encode(shape)).facts()
        await Invoice.create(
            id=shape["id"],
            account_id=self._account.id,
            customer=self._account.stripe_customer,
            subscription=subscription,
            billing_reason=shape["billing_reason"],
            payment_intent=f"pi_grown_{number}",
            plan="pro",
            currency="usd",
            amount_due_minor=shape["amount_due"],
            credits_quoted=bulk_fixtures.CREDITS,
            changed_at=now(),
            created_at=now(),
        )
        settled = await self._services.settlement.settle(facts, Source.WEBHOOK)
        assert settled.outcome is Outcome.SETTLED, settled
        self._paid.append(shape["id"])

    async def renew(self) -> None:
        row = await Subscription.get(account_id=self._account.id, status="active")
        await self.settle(row.id)

    async def refund(self) -> None:
        """Of one that was paid before, in part."""
        if not self._paid:
            await self.settle()
        at, number = now(), next(_numbers)
        news = ReversalNews(f"re_{number}", ReversalKind.REFUND, self._paid.pop(), 100, "succeeded", at)
        assert await self._services.settlement.reverse(news) is Outcome.SETTLED

    async def spend(self) -> None:
        await self._services.credit_moves(Spend(self._account.id, "", 1, f"key-{next(_numbers)}", now()))

    async def reserve(self) -> str:
        key, at = f"key-{next(_numbers)}", now()
        await self._services.credit_moves(Reserve(self._account.id, "", 1, key, at + timedelta(hours=1), at))
        return key

    async def commit(self) -> None:
        await self._services.credit_moves(Commit(self._account.id, await self.reserve(), 1, now()))

    async def refresh(self) -> None:
        async with write_transaction():
            await refresh(await ledger.lock_account(self._account.id))

    async def get(self, path: str) -> bytes:
        status, _, body = await ask(self._app, path, self._headers)
        assert status == 200, body
        return body
