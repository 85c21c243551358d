"""GET /api/account/balance: the balance message of the customer's account, and a long poll of it."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.accounts import surviving
from paidup.db.connection import storage_errors
from paidup.realtime.status_queries import balance_of
from paidup.web.dependencies import current_account
from paidup.web.http import json_response
from paidup.web.long_poll import waited_for_news
from paidup.web.websocket.session import AccountSession


async def balance(request: Request) -> Response:
    """GET /api/account/balance: what the account's WebSocket sends. With `wait` and `version`, it waits."""
    account = await current_account(request)
    if await waited_for_news(request, balance_of(account), partial(AccountSession, account.id)):
        with storage_errors():
            await account.refresh_from_db()
            account = await surviving(account)  # it may have been merged meanwhile
    return json_response(balance_of(account))


ROUTES = [Route("/api/account/balance", balance, methods=["GET"])]
