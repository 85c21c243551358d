"""One server process for all of schemathesis' requests, with SQLite and the sandbox."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from tests.support.contracts import checked_session
from tests.support.paidup import JWT_SECRET, Paidup, environment, serving_process
from tests.support.processes import free_port
from tests.support.stripe_sandbox import StripeSide

OPERATOR_TOKEN = "operator-token-of-the-tests"
TOKENS_LAST_S = 3600


@pytest.fixture(scope="package")
def server_url(
    valkey: str, sqlite_template: Path, sandbox_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A running server; its customer `ada` has paid for a plan and reserved credits as `render-4`."""
    folder = tmp_path_factory.mktemp("contracts")
    shutil.copy(sqlite_template, folder / "paidup.db")
    port = free_port()
    env = environment(
        redis_url=valkey,
        database_url=f"sqlite://{folder / 'paidup.db'}",
        stripe_api_base=sandbox_url,
        data_dir=folder,
        operator_token=OPERATOR_TOKEN,
    )
    url = f"http://127.0.0.1:{port}"
    asyncio.run(_empty(sandbox_url))
    child = serving_process(env, port, folder / "server.log", forked=True)
    asyncio.run(_ada_pays(url, sandbox_url))
    yield url
    child.stop()


async def _empty(sandbox_url: str) -> None:
    async with checked_session() as http:
        side = StripeSide(sandbox_url, http)
        await side.begin()


async def _ada_pays(url: str, sandbox_url: str) -> None:
    async with checked_session() as http:
        ada = Paidup(url, http).customer("ada")
        purchase = await ada.buy("pro")
        await StripeSide(sandbox_url, http).confirm(purchase["client_secret"])
        await ada.call("POST", "/api/invoices", {"invoice": purchase["invoice"]})
        assert (await ada.spend(10, "poster-17"))[0] == 200
        assert (await ada.call("POST", "/api/credits/reserve", {"credits": 50, "key": "render-4"}))[0] == 201


def token_of(name: str) -> str:
    return jwt.encode(
        {"sub": name, "scope": "backend", "exp": int(time.time()) + TOKENS_LAST_S}, JWT_SECRET, "HS256"
    )
