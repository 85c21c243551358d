"""A browser's token cannot move credits, which only the backend may do."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from paidup.app import create_app
from paidup.db.models import Account
from paidup.errors import InsufficientScope
from paidup.web.auth import Customer, Scope
from paidup.web.dependencies import current_account
from tests.conftest import World
from tests.support.paidup import Customer as Shopper
from tests.support.paidup import Paidup, settings
from tests.support.stripe_sandbox import StripeSide

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MOVING: list[tuple[str, dict[str, Any]]] = [
    ("spend", {"credits": 1, "key": "job-2"}),
    ("reserve", {"credits": 50, "key": "job-2"}),
    ("commit", {"credits": 0, "key": "job-1"}),
    ("release", {"key": "job-1"}),
]


async def test_a_browser_token_cannot_move_credits(paidup: Paidup, stripe_side: StripeSide) -> None:
    """It can neither commit 0 of the backend's reservation nor spend with the backend's next key."""
    ada = await with_credits(paidup, stripe_side)
    assert (await ada.call("POST", "/api/credits/reserve", {"credits": 500, "key": "job-1"}))[0] == 201
    for claims in ({"scope": "browser"}, {"scope": None}):
        for path, body in MOVING:
            status, problem = await ada.call("POST", f"/api/credits/{path}", body, **claims)
            assert (status, problem["type"]) == (403, "https://paidup.dev/problems/insufficient-scope")
            assert problem["scope"] == "backend"
            assert "with the scope 'backend'," in problem["detail"]
    committed = await ada.call("POST", "/api/credits/commit", {"credits": 500, "key": "job-1"})
    assert committed == (200, {"balance": 1500, "credits": 500, "key": "job-1"})
    assert (await ada.spend(100, "job-2"))[1]["balance"] == 1400


async def test_a_browser_token_cannot_use_the_backends_key(paidup: Paidup, stripe_side: StripeSide) -> None:
    """Otherwise a key reserved and released by the page would be used up for the backend."""
    ada = await with_credits(paidup, stripe_side)
    page = {"scope": "browser"}
    assert (await ada.call("POST", "/api/credits/reserve", {"credits": 9, "key": "job"}, **page))[0] == 403
    assert (await ada.call("POST", "/api/credits/release", {"key": "job"}, **page))[0] == 403
    status, reserved = await ada.call("POST", "/api/credits/reserve", {"credits": 9, "key": "job"})
    assert (status, reserved["balance"]) == (201, 1991)


async def test_a_browser_token_can_read_buy_and_change_its_own_plan(world: World) -> None:
    ada = (await world.server()).customer()
    assert (await ada.call("POST", "/api/subscriptions", {"plan": "pro"}, scope="browser"))[0] == 201
    for path in ("/api/credits", "/api/account", "/api/account/entries"):
        assert (await ada.call("GET", path, scope="browser"))[0] == 200
    assert (await ada.call("POST", "/api/account/ticket", scope="browser"))[0] == 200
    status, problem = await ada.call("POST", "/api/subscriptions/cancel", {}, scope="browser")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "not-subscribed")


@pytest.mark.parametrize("scope", ["", "admin", "openid profile", "backend browser", "Backend"])
async def test_other_scopes_count_as_a_browsers(world: World, scope: str) -> None:
    """Only `backend` is a backend's; any other value allows the least."""
    ada = (await world.server(webhooks=False)).customer()
    assert (await ada.call("GET", "/api/credits", scope=scope))[0] == 200
    status, problem = await ada.call("POST", "/api/credits/spend", {"credits": 1, "key": "k"}, scope=scope)
    assert (status, problem["type"].rpartition("/")[2]) == (403, "insufficient-scope")


@pytest.mark.parametrize("scope", [["backend"], 1, True, {}])
async def test_a_scope_that_is_not_text_is_refused(world: World, scope: Any) -> None:
    """And no account is created."""
    ada = (await world.server(webhooks=False)).customer()
    for method, path in (("GET", "/api/credits"), ("POST", "/api/credits/spend")):
        status, problem = await ada.call(method, path, {"credits": 1, "key": "k"}, scope=scope)
        assert (status, problem["type"].rpartition("/")[2]) == (401, "not-authenticated")
    assert await Account.all().count() == 0


async def test_a_refused_request_creates_no_account(world: World) -> None:
    mallory = (await world.server(webhooks=False)).customer("mallory")
    for path, body in MOVING:
        assert (await mallory.call("POST", f"/api/credits/{path}", body, scope="browser"))[0] == 403
    assert await Account.all().count() == 0


async def test_a_custom_authentication_decides_the_scope(world: World) -> None:
    """It is a browser's unless the function says that the request is the backend's."""
    scopes = {"page": Customer("ada"), "backend": Customer("ada", scope=Scope.BACKEND)}

    async def authenticate(request: Request) -> Customer:
        return scopes[request.headers["x-from"]]

    app = create_app(settings(**world.given()), authenticate=authenticate)
    async with app.router.lifespan_context(app):

        async def account(said: bytes, needed: Scope) -> Account:
            given = {"type": "http", "method": "POST", "headers": [(b"x-from", said)], "app": app}
            return await current_account(Request(given), needed)

        with pytest.raises(InsufficientScope):
            await account(b"page", Scope.BACKEND)
        assert (await account(b"page", Scope.BROWSER)).external_id == "ada"
        assert (await account(b"backend", Scope.BACKEND)).external_id == "ada"


async def with_credits(paidup: Paidup, stripe_side: StripeSide) -> Shopper:
    """Ada, who has paid for 2,000 credits."""
    ada = paidup.customer()
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    await ada.call("POST", "/api/invoices", {"invoice": purchase["invoice"]})
    assert await ada.balance() == 2000
    return ada
