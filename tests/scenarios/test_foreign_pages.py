"""A page elsewhere that has the customer's browser call us, with whatever names him."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from server.models import Account
from tests.support.paidup import ORIGIN, Paidup


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_page_of_another_origin_changes_nothing(paidup: Paidup, http: aiohttp.ClientSession) -> None:
    """S28: it is refused before anybody asks who the customer is; a page of ours and a backend are not."""
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
