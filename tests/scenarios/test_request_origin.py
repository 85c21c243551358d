"""The origin of requests: pages of other origins, and addresses behind a proxy."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from paidup.db.models import Account
from tests.conftest import World
from tests.support.paidup import ORIGIN, Paidup


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_page_of_another_origin_changes_nothing(paidup: Paidup, http: aiohttp.ClientSession) -> None:
    """S28: refused before authentication; an allowed origin and a backend are not refused."""
    ada = paidup.customer()

    async def call(**headers: str) -> tuple[int, Any]:
        headers["Authorization"] = f"Bearer {ada.token()}"
        url = f"{paidup.url}/api/account/ticket"
        async with http.post(url, data=b"{}", headers=headers) as response:
            return response.status, await response.json()

    for origin in ("http://evil.example", "null", ORIGIN.replace("http", "https"), f"{ORIGIN}.evil.example"):
        status, problem = await call(Origin=origin)
        assert (status, problem["type"].rpartition("/")[2]) == (403, "not-allowed")
    assert await Account.all().count() == 0
    for headers in ({}, {"Origin": ORIGIN}):
        assert (await call(**headers))[0] == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_behind_a_proxy_the_customers_own_address_counts(world: World) -> None:
    """The address that the proxy appends counts, not what the client sent."""
    paidup = await world.server(webhooks=False, max_sockets_per_address=1)
    ada = paidup.customer()
    purchase = await ada.buy()

    async def opens(forwarded: str) -> bool:
        with suppress(aiohttp.WSServerHandshakeError):
            await world.stack.enter_async_context(ada.watch(purchase, **{"X-Forwarded-For": forwarded}))
            return True
        return False

    assert await opens("192.0.2.1")
    assert await opens("192.0.2.2")
    assert not await opens("192.0.2.1")
    assert not await opens("192.0.2.99, 192.0.2.2"), "the client claims 99; the proxy saw 2"
