"""The HTTP API for browsers and the SaaS's backend. docs/api.md describes it.

Each handler authenticates, validates, calls one service and responds. A browser's statement about
a payment is never trusted.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.connection import storage_errors
from paidup.db.models import Account, CreditGrant, GrantState, Subscription
from paidup.domain.catalog import MAX_QUANTITY, Catalogue, Interval, Plan
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.errors import NotFound
from paidup.payments.current_subscriptions import current_subscriptions
from paidup.rate_limits.account_limits import Limited
from paidup.realtime.status_queries import read_own_status
from paidup.runtime.clock import now
from paidup.subscriptions.change_previews import preview_change
from paidup.subscriptions.renewals import renewal_under_way
from paidup.web.account_checkouts import awaited_checkout, paid_twice
from paidup.web.current_status import current_status
from paidup.web.dependencies import (
    account_of,
    current_account,
    current_grants,
    get_services,
    identified,
    limited,
    purchase_response,
    verified_activation,
)
from paidup.web.http import json_response, read_json
from paidup.web.long_poll import waited_for_news
from paidup.web.websocket.session import InvoiceSession

Period = Literal["month", "year"]
"""A recurring interval. One-time payments are top-ups."""
Quantity = Annotated[int, msgspec.Meta(ge=1, le=MAX_QUANTITY)]
InvoiceId = Annotated[str, msgspec.Meta(pattern=r"\Ain_[A-Za-z0-9_]{1,250}\Z")]
ROW_ID = re.compile(r"(?:in|cs)_[A-Za-z0-9_]{1,250}")
"""The id of an invoice's row: a Checkout Session that was paid without an invoice has a row of its own id."""
SubscriptionId = Annotated[str, msgspec.Meta(pattern=r"\Asub_[A-Za-z0-9_]{1,250}\Z")]


class BuyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`interval` defaults to the plan's first one."""

    plan: str
    interval: Period | None = None
    quantity: Quantity = 1


class ChangeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Omitted fields stay unchanged."""

    plan: str
    interval: Period | None = None
    quantity: Quantity | None = None
    subscription: SubscriptionId | None = None


class CancelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    when: Literal["period_end", "now"] = "period_end"
    subscription: SubscriptionId | None = None


class ResumeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    subscription: SubscriptionId | None = None


class TopUpBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plan: str
    quantity: Quantity = 1


class AdoptBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    invoice: InvoiceId


async def plans(request: Request) -> Response:
    """GET /api/plans: the plans on sale, with their prices."""
    services = get_services(request)
    shown = [
        {
            "id": plan.id,
            "name": plan.name,
            "description": plan.description,
            "credits": plan.credits,
            "top_up": plan.top_up,
            "max_quantity": plan.quantity_limit,
            "prices": prices,
            **_units_of(plan, services.catalogue),
        }
        for plan in services.catalogue.plans
        if (prices := await services.prices.on_sale(plan))
    ]
    return json_response({"plans": shown})


def _units_of(plan: Plan, catalogue: Catalogue) -> dict[str, Any]:
    """Of which unit its `credits` are, and what it gives of others, where the plans file names several."""
    if not catalogue.named_units:
        return {}
    grants = {catalogue.unit_name(unit): credits for unit, credits in plan.grants.items()}
    return {"unit": catalogue.unit_name(plan.unit), "grants": grants}


async def subscribe(request: Request) -> Response:
    """POST /api/subscriptions: create a subscription to pay, or return the one that is pending."""
    account = await current_account(request)
    body = await read_json(request, BuyBody)
    purchases = get_services(request).checkout
    async with limited(request, account, Limited.PURCHASES):
        bought = await purchases.buy(account, body.plan, _interval(body.interval), body.quantity)
    return purchase_response(request, account, bought)


async def change(request: Request) -> Response:
    """POST /api/subscriptions/change: upgrade or downgrade. Takes effect once it is paid."""
    account = await current_account(request)
    body = await read_json(request, ChangeBody)
    changes = get_services(request).plan_changes
    async with limited(request, account, Limited.PURCHASES):
        changed = await changes.change(
            account, body.plan, _interval(body.interval), body.quantity, body.subscription
        )
    return purchase_response(request, account, changed)


async def preview(request: Request) -> Response:
    """POST /api/subscriptions/preview: what a change would charge now. Changes nothing."""
    account = await current_account(request)
    body = await read_json(request, ChangeBody)
    changes, gateway = get_services(request).plan_changes, get_services(request).gateway
    wanted = (body.plan, _interval(body.interval), body.quantity, body.subscription)
    async with limited(request, account, Limited.PURCHASES):
        cost = await preview_change(changes, gateway, account, *wanted)
    return json_response(cost)


def _interval(period: Period | None) -> Interval | None:
    return None if period is None else Interval(period)


async def cancel(request: Request) -> Response:
    """POST /api/subscriptions/cancel: cancel the subscription at the end of its period, or now."""
    account = await current_account(request)
    body = await read_json(request, CancelBody)
    async with limited(request, account, Limited.PURCHASES):
        changes = get_services(request).plan_changes
        row = await changes.cancel(account, body.when == "now", body.subscription)
    return json_response({"subscription": _subscription(request, row)})


async def resume(request: Request) -> Response:
    """POST /api/subscriptions/resume: undo a cancellation that has not taken effect yet."""
    account = await current_account(request)
    body = await read_json(request, ResumeBody, default=ResumeBody())
    async with limited(request, account, Limited.PURCHASES):
        row = await get_services(request).plan_changes.resume(account, body.subscription)
    return json_response({"subscription": _subscription(request, row)})


async def top_up(request: Request) -> Response:
    """POST /api/top-ups: buy credits once, independently of a plan."""
    account = await current_account(request)
    body = await read_json(request, TopUpBody)
    purchases = get_services(request).checkout
    async with limited(request, account, Limited.PURCHASES):
        bought = await purchases.top_up(account, body.plan, body.quantity)
    return purchase_response(request, account, bought)


async def adopt(request: Request) -> Response:
    """POST /api/invoices: track an invoice that the SaaS created in Stripe itself."""
    account = await current_account(request)
    body = await read_json(request, AdoptBody)
    async with limited(request, account, Limited.ADOPTIONS):
        adopted = await get_services(request).checkout.adopt(account, body.invoice)
    return purchase_response(request, account, adopted)


async def invoice_status(request: Request) -> Response:
    """GET /api/invoices/{invoice}: the status message. With `wait` and `version`, a long poll."""
    account_id, status = await _read_at_once(request)
    if await waited_for_news(request, status, lambda it: InvoiceSession(status.invoice, account_id, it)):
        status = await _own_status(request, account_id)
    return json_response(await current_status(get_services(request), account_id, status))


async def fresh_ticket(request: Request) -> Response:
    """POST /api/invoices/{invoice}/ticket: a new ticket for the customer whose invoice it is."""
    account = await current_account(request)
    status = await _own_status(request, account.id)
    tickets = get_services(request).tickets
    ticket = tickets.issue(status.invoice, account.id)
    return json_response({"ticket": ticket, "expires_at": tickets.expires_at(now())})


async def account_ticket(request: Request) -> Response:
    """POST /api/account/ticket: a new ticket for the customer's own balance."""
    account = await current_account(request)
    tickets = get_services(request).tickets
    ticket = tickets.issue_for_account(account.id)
    return json_response({"ticket": ticket, "expires_at": tickets.expires_at(now())})


async def account(request: Request) -> Response:
    """GET /api/account: the balance, the subscriptions, and a payment that is pending or in progress."""
    own = await current_account(request)
    activating = await verified_activation(get_services(request), own)
    with storage_errors():
        await own.refresh_from_db()  # Stripe may just have said that it is paid
    own, _ = await current_grants(get_services(request), own)
    rows = await current_subscriptions(own)
    subscriptions = [_subscription(request, row) for row in rows]
    return json_response(
        {
            "balance": own.balance,
            "subscription": subscriptions[0] if subscriptions else None,
            "subscriptions": subscriptions,
            "installments": await _installments(own, get_services(request).catalogue),
            "activating": activating,
            "renewing": await renewal_under_way(rows, get_services(request).clock()),
            "checkout": await awaited_checkout(own),
            "paid_twice": await paid_twice(own),
        }
    )


def _subscription(request: Request, row: Subscription) -> dict[str, Any]:
    price = get_services(request).prices.get(row.price or "")
    return {
        "id": row.id,
        "status": row.status,
        "plan": row.plan,
        "interval": price and price.interval,
        "quantity": row.quantity,
        "pending_plan": row.pending_plan,
        "current_period_end": row.current_period_end,
        "cancel_at": row.cancel_at,
        "collection_paused": row.collection_paused,
        "ended_at": row.ended_at,
    }


async def _installments(own: Account, catalogue: Catalogue) -> list[dict[str, Any]]:
    """The installments of a yearly plan that are still to come."""
    planned = CreditGrant.filter(account_id=own.id, state=GrantState.PLANNED, credits__gt=0)
    planned = planned.exclude(invoice__status=InvoiceStatus.REVERSED)  # unless its refund fails
    with storage_errors():
        rows = await planned.order_by("due_at", "id").limit(24 * len(catalogue.units))
    return [
        {
            "credits": row.credits,
            "plan": row.plan,
            "due_at": row.due_at,
            **({"unit": catalogue.unit_name(row.unit)} if catalogue.named_units else {}),
        }
        for row in rows
    ]


async def _read_at_once(request: Request) -> tuple[int, StatusMessage]:
    """The customer's account and their invoice's status: one statement, where its row says whose it is."""
    customer, invoice = await identified(request), request.path_params["invoice"]
    accounts = get_services(request).accounts
    read = await accounts.read_status(invoice) if ROW_ID.fullmatch(invoice) else None
    linked = read and customer.stripe_customer in (None, read.stripe_customer)
    if read and linked and read.external_id == customer.external_id:
        return read.account_id, read.status
    account = await account_of(request, customer)  # it may be new, or merged into the invoice's
    return account.id, await _own_status(request, account.id)


async def _own_status(request: Request, account_id: int) -> StatusMessage:
    invoice = request.path_params["invoice"]
    with storage_errors():
        # Anything that is not an invoice id (it may hold any character) never reaches the database.
        status = await read_own_status(invoice, account_id) if ROW_ID.fullmatch(invoice) else None
    if status is None:
        raise NotFound(f"There is no invoice {invoice} for this customer.")
    return status


ROUTES = [
    Route("/api/plans", plans, methods=["GET"]),
    Route("/api/subscriptions", subscribe, methods=["POST"]),
    Route("/api/subscriptions/change", change, methods=["POST"]),
    Route("/api/subscriptions/preview", preview, methods=["POST"]),
    Route("/api/subscriptions/cancel", cancel, methods=["POST"]),
    Route("/api/subscriptions/resume", resume, methods=["POST"]),
    Route("/api/top-ups", top_up, methods=["POST"]),
    Route("/api/invoices", adopt, methods=["POST"]),
    Route("/api/invoices/{invoice}", invoice_status, methods=["GET"]),
    Route("/api/invoices/{invoice}/ticket", fresh_ticket, methods=["POST"]),
    Route("/api/account", account, methods=["GET"]),
    Route("/api/account/ticket", account_ticket, methods=["POST"]),
]
