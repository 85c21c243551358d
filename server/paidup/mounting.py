"""Mounts Paidup in another ASGI application, and gives its routes access to credits without HTTP.

The host imports everything from here. It mounts `create_app(...)`, opens it with `running(...)` in its
own lifespan, and gets an `InProcess`, with which its routes read and spend credits: in the same
transactions as the HTTP API, so that open pages receive the new balance. Nothing process-wide is
changed: no logging, no event loop, no garbage collector.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import msgspec
from starlette.applications import Starlette

from paidup.app import create_app
from paidup.credits import reservations
from paidup.credits.ledger import Spent
from paidup.credits.reservations import Reserved
from paidup.db.models import Account
from paidup.errors import InvalidInput
from paidup.graceful_shutdown import before_sigterm
from paidup.services import Services
from paidup.subscriptions.renewals import Renewal
from paidup.web.auth import Authenticate, Claims, Customer, Scope
from paidup.web.credits_api import CommitBody, ReleaseBody, ReserveBody, SpendBody, check_credit_limit
from paidup.web.dependencies import (
    PendingActivation,
    account_transaction,
    current_grants,
    pending_activation,
    renewing,
)

__all__ = [
    "Authenticate",
    "Customer",
    "InProcess",
    "PendingActivation",
    "Renewal",
    "Reserved",
    "Scope",
    "Spent",
    "create_app",
    "running",
]

T = TypeVar("T")


@asynccontextmanager
async def running(paidup: Starlette, drain_at_sigterm: bool = True) -> AsyncIterator[InProcess]:
    """Open a mounted Paidup for the length of the block. For use in the host's own lifespan.

    Starlette and FastAPI only run the lifespan of the outermost application. With `drain_at_sigterm`,
    sockets are closed, spread over SHUTDOWN_DRAIN_S, before uvicorn handles SIGTERM.
    Raises ConfigurationError (plans file, a second Paidup in this process), StorageUnavailable.
    """
    async with paidup.router.lifespan_context(paidup):
        with before_sigterm(paidup.state.sockets.drain) if drain_at_sigterm else nullcontext():
            yield InProcess(paidup.state.services)


class InProcess:
    """A customer's credits, for the host's own routes. `customer` is the host's user id.

    Accounts are created on first use. Every method may raise InvalidInput, or StorageUnavailable, in
    which case nothing was changed. Do not call one inside a transaction of your own that holds a lock:
    it uses its own transaction, in Paidup's database.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def balance(self, customer: str) -> int:
        """The credits that can be spent now. A negative balance is a debt."""
        account, _ = await current_grants(self._services, await self._account(customer))
        return int(account.balance)

    async def activating(self, customer: str) -> PendingActivation | None:
        """The newest payment in progress, with a ticket for its WebSocket. Show it with a refusal."""
        return await pending_activation(self._services, await self._account(customer))

    async def renewing(self, customer: str) -> Renewal | None:
        """The renewal that Stripe is collecting. The customer has nothing to pay or to wait for."""
        return await renewing(self._services, await self._account(customer))

    async def spend(self, customer: str, credits: int, key: str) -> Spent:
        """Spend `credits`, once per `key`. Raises InsufficientCredits or KeyReused."""
        body = _checked({"credits": credits, "key": key}, SpendBody)
        check_credit_limit(self._services, body.credits)
        async with account_transaction(self._services, await self._account(customer)) as locked:
            return await reservations.spend(locked, body.credits, body.key, self._services.clock())

    async def reserve(self, customer: str, credits: int, key: str, expires_in_s: int = 900) -> Reserved:
        """Reserve `credits`, once per `key`. Raises InsufficientCredits, KeyReused or ReservationOver."""
        body = _checked({"credits": credits, "key": key, "expires_in_s": expires_in_s}, ReserveBody)
        check_credit_limit(self._services, body.credits)
        at = self._services.clock()
        expires_at = at + timedelta(seconds=body.expires_in_s)
        async with account_transaction(self._services, await self._account(customer)) as locked:
            return await reservations.reserve(locked, body.credits, body.key, expires_at, at)

    async def commit(self, customer: str, credits: int, key: str) -> Spent:
        """Spend `credits` of the reservation `key` and return the rest to the balance.

        Raises NotFound, KeyReused or ReservationOver.
        """
        body = _checked({"credits": credits, "key": key}, CommitBody)
        async with account_transaction(self._services, await self._account(customer)) as locked:
            return await reservations.commit(locked, body.key, body.credits, self._services.clock())

    async def release(self, customer: str, key: str) -> Spent:
        """Return the whole reservation `key` to the balance. Raises NotFound or ReservationOver."""
        body = _checked({"key": key}, ReleaseBody)
        async with account_transaction(self._services, await self._account(customer)) as locked:
            return await reservations.release(locked, body.key, self._services.clock())

    async def _account(self, customer: str) -> Account:
        return await self._services.checkout.account(_checked({"sub": customer}, Claims).sub, None)


def _checked(values: dict[str, object], kind: type[T]) -> T:
    """Validate `values` as the HTTP API does."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"The arguments are not valid: {error}") from None
