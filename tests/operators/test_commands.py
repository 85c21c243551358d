"""The operators' commands as processes: their exit codes, their words, their JSON."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from paidup.clock import now
from paidup.db.connection import open_database
from paidup.db.models import Account, Invoice
from tests.conftest import World
from tests.operators.conftest import Run, document, paid_elsewhere, paidup_command
from tests.support.factories import an_account
from tests.support.paidup import environment
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import LOOKUP_KEYS, StripeSide

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_an_operator_s_day(world: World, run: Run, stripe_side: StripeSide) -> None:
    """S20, S36, S37: a paid invoice is missing; backfilled, explained, replayed; then a balance is wrong."""
    customer = await stripe_side.customer()
    async with open_database(world.database_url):
        await Account.create(external_id="ada", stripe_customer=customer)
    invoice = await paid_elsewhere(stripe_side, customer)
    code, words = await run("explain", invoice, forked=True)
    assert (code, "looked for an invoice" in words) == (1, True)
    code, words = await run("backfill", "--since", f"{now():%Y-%m-%d}", "--json")
    assert code == 0
    assert document(words)["outcomes"] == {"settled": 1}
    code, words = await run("explain", "ada", "--json")
    assert code == 0
    (report,) = document(words)["invoices"]
    assert (report["invoice"], report["details"]["settled_via"]) == (invoice, "reconciliation")
    event = await stripe_side.event("invoice.paid")
    code, words = await run("replay", event["id"])
    assert (code, words.strip()) == (0, f"{event['id']} (invoice.paid): already_settled")
    async with open_database(world.database_url):
        await Account.all().update(balance=1)
    code, words = await run("audit", "--json")
    assert code == 1
    told = document(words)
    assert (told["accounts"], told["differences"][0]["subject"]) == (1, "account ada")


async def test_the_doctor_says_what_is_wrong_with_exit_code_1(home: Path, world: World, run: Run) -> None:
    """S35: with broken settings it names each, and with good ones it looks further."""
    code, words = await paidup_command(home, ("doctor", "--json"), {"PORT": "eighty"})
    assert code == 1
    told = document(words)
    assert told["ok"] is False
    assert {check["name"] for check in told["checks"]} == {"settings"}
    assert any(check["text"].startswith("PORT: ") for check in told["checks"])
    await world.deliver_to(1)
    code, words = await run("doctor", forked=True)
    assert code == 0, words
    assert "ok    settings" in words
    assert "warn  endpoint version" in words


async def test_stripe_setup_makes_the_endpoint_before_there_is_a_secret(
    home: Path, world: World, stripe_side: StripeSide
) -> None:
    """The secret is what it gives: it is not asked for, and printed once with what to do with it."""
    variables = environment(**world.given(database_url="postgresql://nobody@127.0.0.1:1/nothing"))
    del variables["STRIPE_WEBHOOK_SECRET"]
    arguments = ("stripe-setup", "--webhook-url", "https://paidup.example")
    code, words = await paidup_command(home, arguments, variables)
    assert code == 0, words
    assert "STRIPE_WEBHOOK_SECRET=whsec_" in words
    code, words = await paidup_command(home, (*arguments, "--json"), variables, forked=True)
    assert code == 0
    told = document(words)
    assert (told["endpoint"]["state"], told["endpoint"]["secret"]) == ("there", None)
    assert [price["state"] for price in told["prices"]] == ["there"] * LOOKUP_KEYS
    assert len((await stripe_side.api("GET", "webhook_endpoints"))["data"]) == 1


@pytest.fixture
async def unanswered() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A Stripe that has no prices and never tells its invoices: its address, and whether it was asked."""
    asked, over = asyncio.Event(), asyncio.Event()

    async def prices(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [], "has_more": False})

    async def invoices(_: web.Request) -> web.Response:
        asked.set()
        await over.wait()
        return web.Response()

    stripe = web.Application()
    stripe.add_routes([web.get("/v1/prices", prices), web.get("/v1/invoices", invoices)])
    runner = web.AppRunner(stripe)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}", asked
    over.set()
    await runner.cleanup()


async def test_a_backfill_can_be_stopped_at_any_moment(
    home: Path, world: World, unanswered: tuple[str, asyncio.Event]
) -> None:
    """Ctrl-C: what was done is told, nothing is half done, and the exit code says that it was stopped."""
    async with open_database(world.database_url):
        await an_account()
    stripe, asked = unanswered
    arguments = ["-m", "paidup.cli", "backfill", "--since", "2026-01-01", "--json"]
    variables = environment(**world.given(stripe_api_base=stripe))
    child = Child(arguments, variables, home / "words.log", home, forked=True)
    try:
        await asyncio.wait_for(asked.wait(), 30)
        child.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(child.process.wait, 20) == 130
    finally:
        child.stop()
    assert document(child.output)["invoices"] == 0
    assert "Traceback" not in child.output
    async with open_database(world.database_url):
        assert await Invoice.all().count() == 0
