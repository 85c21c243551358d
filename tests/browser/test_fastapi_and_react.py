"""docs/fastapi-react.md, whose files are run here: a FastAPI backend, a React page, and the sandbox."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from paidup.settings import PACKAGED_PLANS
from paidup_demo.testing import PUBLISHABLE_KEY, PaidupServer, Sandbox, running_paidup, running_sandbox
from tests.browser.story import VISA, VISA_WITH_3DS
from tests.browser.test_examples import BUILD, pay
from tests.support.node import ENVIRONMENT, MODULES, NODE
from tests.support.processes import ROOT, Child, free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("fastapi_and_react")]

SHOP = ROOT / "docs" / "examples" / "fastapi_react"
SERVED = """
from fastapi.staticfiles import StaticFiles

from backend import app

app.mount("/", StaticFiles(directory="project/dist", html=True))
"""
"""The backend, which also serves the built page."""


class Product(NamedTuple):
    url: str
    paidup: PaidupServer
    sandbox: Sandbox


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    if not (MODULES / "@stripe" / "react-stripe-js").exists():
        pytest.skip("npm's packages are not installed: `make test` does it")
    folder, port = tmp_path_factory.mktemp("product"), free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as running:
        sandbox = running.enter_context(running_sandbox(PACKAGED_PLANS, url))
        paidup = running.enter_context(running_paidup(sandbox, {"ALLOWED_ORIGINS": url}))
        _build(folder, sandbox)
        (folder / "served.py").write_text(SERVED)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{SHOP}{os.pathsep}{folder}",
            "PAIDUP_URL": paidup.url,
            "AUTH_JWT_SECRET": paidup.auth_jwt_secret,
            "SESSION_SECRET": "the-secret-of-the-products-own-sessions",
        }
        command = ["-m", "uvicorn", "served:app", "--port", str(port)]
        backend = Child(command, environment, folder / "backend.log", cwd=folder)
        running.callback(backend.stop)
        backend.wait_for(f"{url}/openapi.json")
        yield Product(url, paidup, sandbox)


def _build(folder: Path, sandbox: Sandbox) -> None:
    """The page, with the addresses of this sandbox. Its types are checked before."""
    settings = {"VITE_STRIPE_JS": f"{sandbox.url}/stripe.js", "VITE_STRIPE_PUBLISHABLE_KEY": PUBLISHABLE_KEY}
    command = [str(NODE), str(BUILD), str(folder), str(SHOP / "web")]
    done = subprocess.run(
        command, env={**ENVIRONMENT, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, product: Product) -> AsyncIterator[Page]:
    """The page of a customer who has signed in; the test fails if it had errors."""
    context = await browser.new_context()
    page, errors = await context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "warning" else None)
    await page.goto(product.url)
    await page.get_by_label("E-mail").fill(f"{secrets.token_hex(4)}@example.com")
    await page.get_by_role("button", name="Sign in").click()
    yield page
    product.sandbox.reset_conditions()
    await context.close()
    assert errors == []


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name).click()


async def expect_credits(page: Page, credits: int, plan: str) -> None:
    await expect(page.get_by_text(f"{credits} credits, plan {plan}")).to_be_visible()


async def answer_bank(page: Page) -> None:
    bank = page.frame_locator("iframe[title^='3-D Secure']")
    await bank.locator("#test-source-authorize-3ds").click()


@pytest.mark.parametrize(
    ("conditions", "card"),
    [({"webhook_delay_ms": 60_000}, VISA), ({"webhook_drop": True}, VISA_WITH_3DS)],
    ids=["late", "lost, and the bank asks each time"],
)
async def test_the_whole_life_of_a_customer(
    page: Page, product: Product, conditions: dict[str, Any], card: str
) -> None:
    """Refused, paid, active without a webhook; then an upgrade, the end and its undoing, and a top-up."""
    asked = card == VISA_WITH_3DS
    product.sandbox.conditions(**conditions)
    await press(page, "Make a poster")
    await expect(page.locator("p[role=status]")).to_have_text("You need more credits.")
    await press(page, "Basic")
    await pay(page, card)
    if asked:
        await answer_bank(page)
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await expect_credits(page, 500, "basic")
    await press(page, "Make a poster")
    await expect_credits(page, 495, "basic")
    await press(page, "Pro")  # with the saved card
    if asked:
        await answer_bank(page)
    await expect_credits(page, 1995, "pro")
    await press(page, "Cancel")
    await expect(page.get_by_text("which ends with its period")).to_be_visible()
    await press(page, "Resume")
    await expect(page.get_by_text("which ends with its period")).to_be_hidden()
    await press(page, "Extra credits")
    await pay(page, VISA)
    await expect_credits(page, 2995, "pro")


async def test_a_job_of_unknown_cost_and_a_feature_of_pro(page: Page, product: Product) -> None:
    """As the page would call them, with the user's session. A repeated request spends once."""

    async def call(path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {session}"}
        method = page.request.get if body is None else page.request.post
        answer = await method(
            f"{product.url}/app/{path}", headers=headers, **({"data": body} if body else {})
        )
        return answer.status, await answer.json()

    signed_in = await page.request.post(f"{product.url}/app/sign-in", data={"email": "grace@example.com"})
    session = (await signed_in.json())["session"]
    assert (await call("export"))[0] == 403
    assert await call("videos", {"id": "1", "seconds": 10}) == (
        402,
        {"needed": 30, "balance": 0, "activating": None},
    )
    _, billing = await call("billing")
    user = _subject(billing["token"])
    product.paidup.buy(user, "pro")
    assert await call("export") == (200, {"export": "..."})
    assert await call("videos", {"id": "1", "seconds": 10}) == (202, {"video": "1", "balance": 1970})
    for _ in range(2):
        assert (await call("posters", {"id": "1"}))[1] == {"poster": "1", "balance": 1975}
    assert (await call("videos", {"id": "1", "seconds": 10}))[0] == 409, "its reservation is closed"


def _subject(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["sub"])
