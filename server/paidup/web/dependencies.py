"""Shared by the API routes: the current account, its pending payment, transactions and limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from paidup.credits import ledger
from paidup.credits.shown_grants import first_grants, may_be_over
from paidup.db.connection import storage_errors, write_transaction
from paidup.db.models import Account, CreditGrant
from paidup.db.unit_accounts import in_all_units
from paidup.domain.messages import StatusMessage
from paidup.errors import InsufficientScope, NotAllowed
from paidup.payments.current_subscriptions import current_subscriptions
from paidup.rate_limits.account_limits import Limited
from paidup.realtime.status_queries import read_status
from paidup.runtime.clock import now
from paidup.services import Services
from paidup.subscriptions.checkout import Purchase
from paidup.subscriptions.pending import newest_awaited
from paidup.subscriptions.renewals import Renewal, renewal_under_way
from paidup.web.auth import Customer, Scope, authenticated
from paidup.web.current_status import current_status
from paidup.web.http import json_response


def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def identified(request: Request, scope: Scope = Scope.BROWSER) -> Customer:
    """Whose request it is. No account is made.

    Raises NotAuthenticated or NotAllowed; with the scope BACKEND, InsufficientScope for a browser's token.
    """
    # CSRF: with cookie authentication, a page of another origin could send this request.
    origin = request.headers.get("origin")
    settings = get_services(request).settings
    if request.method == "POST" and origin and not settings.may_post(origin):
        raise NotAllowed(f"The origin {origin!r} is not in ALLOWED_ORIGINS.")
    customer = await authenticated(request)
    if scope is Scope.BACKEND and customer.scope is not Scope.BACKEND:
        raise InsufficientScope(scope)
    return customer


async def account_of(request: Request, customer: Customer) -> Account:
    """The customer's account, created on first use."""
    return await get_services(request).accounts.get(customer.external_id, customer.stripe_customer)


async def current_account(request: Request, scope: Scope = Scope.BROWSER) -> Account:
    """The account of the authenticated customer, created on first use. Raises what `identified` raises."""
    return await account_of(request, await identified(request, scope))


def limited(request: Request, account: Account, what: Limited) -> AbstractAsyncContextManager[None]:
    """Count one call to Stripe for the account and limit concurrent ones. Raises TooManyRequests."""
    return get_services(request).account_limits.turn(account.id, what)


class PendingActivation(msgspec.Struct, frozen=True):
    """A payment in progress, and a ticket for its WebSocket. `reason` is Stripe's `billing_reason`.

    `checkout`: the Checkout Session that it came from, if any.
    """

    invoice: str
    ticket: str
    status: StatusMessage
    reason: str | None
    checkout: str | None = None


async def verified_activation(services: Services, account: Account) -> PendingActivation | None:
    """The same as `pending_activation`, after asking Stripe where its row says that nothing was paid."""
    pending = await pending_activation(services, account)
    if pending is None:
        return None
    status = await current_status(services, account.id, pending.status)
    return (
        await pending_activation(services, account)
        if status.terminal
        else msgspec.structs.replace(pending, status=status)
    )


async def pending_activation(services: Services, account: Account) -> PendingActivation | None:
    """The newest payment that the customer can be waiting for, with a ticket for its WebSocket."""
    row = await newest_awaited(account, now() - timedelta(hours=services.settings.abandoned_after_h))
    with storage_errors():
        status = await read_status(row.id) if row else None
    if row is None or status is None:
        return None
    ticket = services.tickets.issue(row.id, account.id)
    return PendingActivation(row.id, ticket, status, row.billing_reason, row.checkout)


async def renewing(services: Services, account: Account) -> Renewal | None:
    """The account's renewal that Stripe is collecting. Nobody has to wait for it, or pay."""
    return await renewal_under_way(await current_subscriptions(account), services.clock())


def purchase_response(request: Request, account: Account, purchase: Purchase) -> Response:
    body = {
        "invoice": purchase.status.invoice,
        "client_secret": purchase.client_secret,
        "ticket": get_services(request).tickets.issue(purchase.status.invoice, account.id),
        "status": purchase.status,
    }
    return json_response(body, 201 if purchase.created else 200)


@asynccontextmanager
async def account_transaction(services: Services, account: Account) -> AsyncIterator[Account]:
    """Lock the account in a transaction. After the commit, publish its balance if it has changed."""
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        before = locked.version
        yield locked
    if locked.version != before:
        await services.publish_balance(locked)


async def current_grants(services: Services, account: Account) -> tuple[Account, list[CreditGrant]]:
    """The account and the first of its live grants, of all units. Expired grants are ended first."""
    at = services.clock()
    grants = await first_grants(account.id)
    if may_be_over(grants, at):
        async with account_transaction(services, account) as account:
            for each in in_all_units(account):
                await ledger.expire_due(each, at)
            grants = await first_grants(account.id)
    return account, grants
