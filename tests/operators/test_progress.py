"""Progress of what may take longer than two seconds, and output that is piped."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paidup.db.connection import open_database
from paidup.db.models import Account, StripeEvent
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import document, paid_elsewhere
from tests.support.paidup import environment
from tests.support.processes import Child
from tests.support.stripe_sandbox import StripeSide
from tests.support.terminals import terminal
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BAR = re.compile(r"[━╸╺]{5}")
IDS = re.compile(r"\b(?:in|pi|sub|cus|evt|ch)_\w+")
CONTROL = re.compile(r"\x1b\[[\d;?]*\w")


@pytest.mark.parametrize(
    ("command", "bar"),
    [
        (("doctor",), "Checks"),
        (("stripe-setup",), "Stripe"),
        (("migrate",), "Migrations"),
        (("replay", "evt_none"), "Event"),
        (("import",), "Subscriptions"),
        (("backfill", "--since", "2026-01-01"), "Paid invoices"),
        (("audit",), "Accounts"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
async def test_a_terminal_shows_progress(
    world: World, home: Path, command: tuple[str, ...], bar: str
) -> None:
    arguments, variables = ["-m", "paidup.cli", *command], environment(**world.given())
    child = Child(arguments, variables, home / "terminal.log", home, forked=True, on_terminal=True)
    await wait_until(lambda: child.process.poll() is not None, within=60)
    await wait_until(lambda: re.search(f"{bar} .*{BAR.pattern}", CONTROL.sub("", child.output)))


async def test_a_pipe_gets_no_progress(world: World, home: Path) -> None:
    """Not even with FORCE_COLOR, which rich takes for a terminal."""
    variables = environment(**world.given()) | {"FORCE_COLOR": "1"}
    child = Child(["-m", "paidup.cli", "doctor"], variables, home / "piped.log", home, forked=True)
    await wait_until(lambda: child.process.poll() is not None, within=60)
    assert "settings" in child.output
    assert [line for line in child.output.splitlines() if line.endswith(" ")] == []
    assert not BAR.search(child.output), child.output


async def test_progress_goes_to_standard_error(world: World, home: Path) -> None:
    """The result goes elsewhere, and is the same with and without a terminal beside it."""
    log = home / "terminal.log"
    command = [sys.executable, "-m", "paidup.cli", "stripe-setup", "--json"]
    with terminal(log) as errors:
        child = await asyncio.create_subprocess_exec(
            *command, env=environment(**world.given()), cwd=home, stdout=subprocess.PIPE, stderr=errors
        )
    output, _ = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 0
    assert document(output.decode())["prices"]
    assert not BAR.search(output.decode())
    await wait_until(lambda: BAR.search(log.read_text()))


async def test_ids_are_whole_where_output_is_piped(world: World, home: Path, stripe_side: StripeSide) -> None:
    """Each id stands on one line, however narrow the terminal is said to be, for grep and for copying."""
    customer = await stripe_side.customer()
    account = "a-user-" + "0123456789" * 12
    async with open_database(world.database_url):
        await Account.create(external_id=account, stripe_customer=customer)
        odd = StripeEvent(id="evt_" + "0123456789" * 12, type="invoice.paid", payload="", received_at=now())
        odd.attempts, odd.error = 12, "parked: " + "odd " * 40
        await odd.save()
    invoice = await paid_elsewhere(stripe_side, customer)
    paid = await stripe_side.event("invoice.paid")

    async def output(*command: str) -> str:
        variables = environment(**world.given()) | {"COLUMNS": "20", "FORCE_COLOR": "1"}
        log = home / f"{command[0]}-{command[-1][:8]}.log"
        child = Child(["-m", "paidup.cli", *command], variables, log, home, forked=True)
        await wait_until(lambda: child.process.poll() is not None, within=60)
        assert child.process.returncode == 0, child.output
        return CONTROL.sub("", child.output)

    await output("backfill", "--since", f"{now():%Y-%m-%d}")
    assert f"{paid['id']} (invoice.paid): already_settled\n" == await output("replay", paid["id"])
    reason = "--reason", "sold by hand"
    assert (await output("dismiss", odd.id, *reason, "--by", "mia")).count("\n") == 1
    known = set(IDS.findall(await output("explain", account, "--json")))
    assert {invoice, customer} <= known
    text = await output("explain", account)
    assert account in text
    assert invoice in IDS.findall(text)
    assert [found for found in IDS.findall(text) if found not in known] == [], "a part of an id"
