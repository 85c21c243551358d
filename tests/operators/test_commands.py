"""The operators' commands as processes: exit codes, output and JSON."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from paidup.db.connection import open_database
from paidup.db.models import Account, Invoice, StripeEvent
from paidup.db.outbound_models import EndpointState, EventEndpoint
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import Run, document, paid_elsewhere, paidup_command
from tests.support.checkout_shop import EXTRA, CheckoutShop
from tests.support.factories import an_account
from tests.support.paidup import environment
from tests.support.processes import Child, free_port
from tests.support.receivers import SECRET
from tests.support.stripe_sandbox import LOOKUP_KEYS, StripeSide

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_a_missing_payment_is_backfilled_explained_and_replayed(
    world: World, run: Run, stripe_side: StripeSide
) -> None:
    """S20, S36, S37: and a wrong balance is reported by the audit."""
    customer = await stripe_side.customer()
    async with open_database(world.database_url):
        await Account.create(external_id="ada", stripe_customer=customer)
    invoice = await paid_elsewhere(stripe_side, customer)
    code, output = await run("explain", invoice)
    assert (code, "no invoice, Checkout Session" in output) == (1, True)
    code, output = await run("backfill", "--since", f"{now():%Y-%m-%d}", "--json", forked=False)
    assert code == 0
    assert document(output)["outcomes"] == {"settled": 1}
    code, output = await run("explain", "ada", "--json")
    assert code == 0
    (report,) = document(output)["invoices"]
    assert (report["invoice"], report["details"]["settled_via"]) == (invoice, "reconciliation")
    event = await stripe_side.event("invoice.paid")
    code, output = await run("replay", event["id"])
    assert (code, output.strip()) == (0, f"{event['id']} (invoice.paid): already_settled")
    async with open_database(world.database_url):
        await Account.all().update(balance=1, held=7)
    code, output = await run("audit", "--repair", "--json")
    assert code == 1
    result = document(output)
    assert (result["accounts"], result["differences"][0]["subject"]) == (1, "account ada")
    assert [each["what"] for each in result["repaired"]] == ["held is 7, its reservations hold 0"]


async def test_a_command_leaves_the_endpoints_of_the_settings(database: None, run: Run) -> None:
    """The shell of an operator may lack EVENT_ENDPOINTS: only what serves, and `work`, apply it."""
    url = "https://app.example.com/hook"
    assert (await run("work", "--once", event_endpoints=url, event_secret=SECRET))[0] == 0
    assert (await EventEndpoint.get(url=url)).state is EndpointState.ENABLED
    assert (await run("backfill", "--since", f"{now():%Y-%m-%d}"))[0] == 0
    assert (await EventEndpoint.get(url=url)).state is EndpointState.ENABLED


async def test_an_event_is_dismissed_with_a_reason(world: World, run: Run) -> None:
    """S15: as a document or a line; exit code 1 and one line where there is no such event."""
    async with open_database(world.database_url):
        await StripeEvent.create(
            id="evt_odd", type="invoice.paid", payload="", received_at=now(), attempts=12, error="parked: odd"
        )
    why = ("--reason", "sold by hand")
    code, output = await run("dismiss", "evt_odd", "evt_none", *why)
    assert (code, "No event evt_none is stored." in output) == (1, True), output
    code, output = await run("dismiss", "evt_odd", *why, "--by", "mia", "--json")
    assert code == 0, output
    (dismissed,) = document(output)["dismissed"]
    assert dismissed == {
        "event": "evt_odd", "type": "invoice.paid", "by": "mia", "reason": "sold by hand",
        "error": "parked: odd",
    }  # fmt: skip
    code, output = await run("dismiss", "evt_odd", *why)
    assert (code, output.strip()) == (0, "evt_odd (invoice.paid): dismissed by mia")


async def test_a_payment_of_nobody_is_given_a_link_or_refunded(
    world: World, run: Run, stripe_side: StripeSide
) -> None:
    """S41: nothing was heard of it. As a document or lines; exit code 1 and one line where it cannot be."""
    shop = CheckoutShop(stripe_side)
    session = await shop.open(EXTRA)
    code, output = await run("claim-link", session)
    assert (code, f"{session} is open: nothing has been paid with it." in output) == (1, True), output
    paid = await shop.pay(session)
    page = "https://app.example.test/welcome"
    code, output = await run("claim-link", session, claim_url=page)
    assert (code, output.startswith(f"{page}?claim="), "Valid until" in output) == (0, True, True), output
    code, output = await run("claim-link", session, "--json")
    assert (code, document(output)["checkout"], document(output)["url"]) == (0, session, None)
    code, output = await run("resolve", session)
    assert (code, "--refund, --credit or --keep" in output) == (1, True), output
    code, output = await run("resolve", session, "--refund", "--json")
    assert code == 0, output
    done = document(output)
    assert (done["resolution"], done["duplicate_of"]) == ("refunded", None)
    refund = await stripe_side.api("GET", f"refunds/{done['refund']}")
    assert (refund["payment_intent"], refund["status"]) == (paid["payment_intent"], "succeeded")
    code, output = await run("resolve", session, "--refund")
    assert (code, output.strip()) == (0, f"{session}, of nobody: refunded")
    code, output = await run("resolve", session, "--keep")
    assert (code, "was refunded already. Nothing was done." in output) == (1, True), output


@pytest.mark.parametrize("command", [("import", "--dry-run"), ("backfill", "--since", "2026-01-01")])
async def test_nothing_is_reported_where_stripe_does_not_answer_at_all(
    home: Path, world: World, command: tuple[str, ...]
) -> None:
    """No "0 subscriptions": how many there are is not known."""
    away = environment(**world.given(stripe_api_base=f"http://127.0.0.1:{free_port()}"))
    code, output = await paidup_command(home, command, away)
    assert (code, "status.stripe.com" in output) == (1, True), output
    assert " 0 " not in f" {output}"


async def test_the_doctor_reports_problems_with_exit_code_1(home: Path, world: World, run: Run) -> None:
    """S35: it reports each invalid setting, and runs the other checks once settings are valid."""
    code, output = await paidup_command(home, ("doctor", "--json"), {"PORT": "eighty"})
    assert code == 1
    result = document(output)
    assert result["ok"] is False
    assert {check["name"] for check in result["checks"]} == {"settings"}
    assert any(check["text"].startswith("PORT: ") for check in result["checks"])
    await world.deliver_to(1)
    code, output = await run("doctor")
    assert code == 0, output
    assert "ok    settings" in output
    assert "warn  endpoint version" in output


async def test_stripe_setup_works_without_a_webhook_secret(
    home: Path, world: World, stripe_side: StripeSide
) -> None:
    """It prints the secret of the new endpoint once, as a line for .env."""
    variables = environment(**world.given(database_url="postgresql://nobody@127.0.0.1:1/nothing"))
    del variables["STRIPE_WEBHOOK_SECRET"]
    arguments = ("stripe-setup", "--webhook-url", "https://paidup.example")
    code, output = await paidup_command(home, arguments, variables)
    assert code == 0, output
    assert "STRIPE_WEBHOOK_SECRET=whsec_" in output
    code, output = await paidup_command(home, (*arguments, "--json"), variables)
    assert code == 0
    result = document(output)
    assert (result["endpoint"]["state"], result["endpoint"]["secret"]) == ("exists", None)
    assert [price["state"] for price in result["prices"]] == ["exists"] * LOOKUP_KEYS
    assert len((await stripe_side.api("GET", "webhook_endpoints"))["data"]) == 1


@pytest.fixture
async def unanswered() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A Stripe that never answers a request for invoices: its URL, and an event set at the first request."""
    asked, finished = asyncio.Event(), asyncio.Event()

    async def prices(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [], "has_more": False})

    async def invoices(_: web.Request) -> web.Response:
        asked.set()
        await finished.wait()
        return web.Response()

    stripe = web.Application()
    stripe.add_routes([web.get("/v1/prices", prices), web.get("/v1/invoices", invoices)])
    runner = web.AppRunner(stripe)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}", asked
    finished.set()
    await runner.cleanup()


async def test_a_backfill_can_be_interrupted(
    home: Path, world: World, unanswered: tuple[str, asyncio.Event]
) -> None:
    """Ctrl-C: the result so far is printed, nothing is half done, and the exit code is 130."""
    async with open_database(world.database_url):
        await an_account()
    stripe, asked = unanswered
    arguments = ["-m", "paidup.cli", "backfill", "--since", "2026-01-01", "--json"]
    variables = environment(**world.given(stripe_api_base=stripe))
    child = Child(arguments, variables, home / "words.log", home, forked=True)
    try:
        await asyncio.wait_for(asked.wait(), 30)
        child.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(child.process.wait, 100) == 130
    finally:
        child.stop()
    assert document(child.output)["invoices"] == 0
    assert "Traceback" not in child.output
    async with open_database(world.database_url):
        assert await Invoice.all().count() == 0
