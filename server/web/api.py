"""The HTTP API that browsers and the SaaS's backend call. docs/api.md describes it.

Each handler authenticates, validates, calls one service and answers. What it refuses to do:
believe a browser about a payment.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server import ledger
from server.clock import now
from server.core.messages import StatusMessage
from server.database import storage_errors, write_transaction
from server.errors import InsufficientCredits, InvalidInput, NotFound
from server.models import Account, CreditGrant, GrantState, Invoice
from server.purchases import PENDING, Purchase
from server.services import Services
from server.statuses import read_status
from server.web.bodies import PRINTABLE, answer, read_json
from server.web.problems import problem_of

InvoiceId = Annotated[str, msgspec.Meta(pattern=r"\Ain_[A-Za-z0-9_]{1,250}\Z")]
SpendKey = Annotated[str, msgspec.Meta(pattern=PRINTABLE, max_length=200)]


class BuyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plan: str


class AdoptBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    invoice: InvoiceId


class SpendBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is the caller's: the same key spends once, however often it is sent."""

    credits: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    key: SpendKey


async def plans(request: Request) -> Response:
    """GET /api/plans: the catalogue."""
    shown = [
        {
            "id": plan.id,
            "name": plan.name,
            "description": plan.description,
            "credits": plan.credits,
            "prices": plan.prices,
        }
        for plan in _services(request).catalogue.plans
    ]
    return answer({"plans": shown})


async def subscribe(request: Request) -> Response:
    """POST /api/subscriptions: a subscription to pay; the same pending one again rather than a second."""
    account = await _account(request)
    body = await read_json(request, BuyBody)
    return _purchase(request, await _services(request).purchases.buy(account, body.plan))


async def adopt(request: Request) -> Response:
    """POST /api/invoices: take up an invoice that the SaaS created by itself in Stripe."""
    account = await _account(request)
    body = await read_json(request, AdoptBody)
    return _purchase(request, await _services(request).purchases.adopt(account, body.invoice))


async def invoice_status(request: Request) -> Response:
    """GET /api/invoices/{invoice}: the status message; the fallback for a socket."""
    return answer(await _own_status(request))


async def fresh_ticket(request: Request) -> Response:
    """POST /api/invoices/{invoice}/ticket: a fresh ticket for the customer whose invoice it is."""
    status = await _own_status(request)
    tickets = _services(request).tickets
    return answer({"ticket": tickets.issue(status.invoice), "expires_at": tickets.expires_at(now())})


async def credits(request: Request) -> Response:
    """GET /api/credits: the balance, the live grants, the next expiry, and what is being activated."""
    account = await _account(request)
    with storage_errors():
        grants = await _live_grants(account)
    if any(grant.expires_at and grant.expires_at <= now() for grant in grants):
        async with write_transaction():
            account = await ledger.lock_account(account.id)
            await ledger.expire_due(account, now())
            grants = await _live_grants(account)
    expiring = next((grant for grant in grants if grant.expires_at), None)
    return answer(
        {
            "balance": account.balance,
            "grants": [
                {
                    "invoice": grant.invoice_id,
                    "plan": grant.invoice.plan,
                    "credits": grant.credits,
                    "remaining": grant.remaining,
                    "expires_at": grant.expires_at,
                }
                for grant in grants
            ],
            "next_expiry": expiring and {"at": expiring.expires_at, "credits": expiring.remaining},
            "activating": await _activating(request, account),
        }
    )


async def spend(request: Request) -> Response:
    """POST /api/credits/spend: take credits, once for each key; 402 tells of a payment being activated."""
    account = await _account(request)
    body = await read_json(request, SpendBody)
    limit = _services(request).settings.spend_max_credits
    if body.credits > limit:
        raise InvalidInput(f"At most {limit} credits can be spent at once.")
    try:
        async with write_transaction():
            spent = await ledger.spend(account.id, body.credits, body.key, now())
    except InsufficientCredits as error:
        # "Not enough" is not the whole answer to somebody who has just paid.
        activating = await _activating(request, account)
        return problem_of(error, balance=error.balance, needed=error.needed, activating=activating)
    return answer(spent)


async def _account(request: Request) -> Account:
    customer = await request.app.state.authenticate(request)
    return await _services(request).purchases.account(customer.external_id, customer.stripe_customer)


async def _live_grants(account: Account) -> list[CreditGrant]:
    """In the order in which they are spent."""
    live = CreditGrant.filter(account_id=account.id, state=GrantState.LIVE, remaining__gt=0)
    return sorted(await live.select_related("invoice"), key=ledger.spending_order)


async def _own_status(request: Request) -> StatusMessage:
    account = await _account(request)
    invoice = request.path_params["invoice"]
    with storage_errors():
        # What is no id of an invoice (it may hold anything) never reaches the database.
        own = _is_invoice_id(invoice) and await Invoice.exists(id=invoice, account_id=account.id)
        status = await read_status(invoice) if own else None
    if status is None:
        raise NotFound(f"There is no invoice {invoice} for this customer.")
    return status


def _is_invoice_id(text: str) -> bool:
    try:
        msgspec.convert(text, InvoiceId)
    except msgspec.ValidationError:
        return False
    return True


async def _activating(request: Request, account: Account) -> dict[str, Any] | None:
    """The payment of this account that is on its way, with a ticket to watch it."""
    pending = Invoice.filter(account_id=account.id, status__in=PENDING).order_by("-created_at")
    with storage_errors():
        row = await pending.only("id").first()
        status = await read_status(row.id) if row else None
    if status is None:
        return None
    ticket = _services(request).tickets.issue(status.invoice)
    return {"invoice": status.invoice, "ticket": ticket, "status": status}


def _purchase(request: Request, purchase: Purchase) -> Response:
    body = {
        "invoice": purchase.status.invoice,
        "client_secret": purchase.client_secret,
        "ticket": _services(request).tickets.issue(purchase.status.invoice),
        "status": purchase.status,
    }
    return answer(body, 201 if purchase.created else 200)


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ROUTES = [
    Route("/api/plans", plans, methods=["GET"]),
    Route("/api/subscriptions", subscribe, methods=["POST"]),
    Route("/api/invoices", adopt, methods=["POST"]),
    Route("/api/invoices/{invoice}", invoice_status, methods=["GET"]),
    Route("/api/invoices/{invoice}/ticket", fresh_ticket, methods=["POST"]),
    Route("/api/credits", credits, methods=["GET"]),
    Route("/api/credits/spend", spend, methods=["POST"]),
]
