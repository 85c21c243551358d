"""Run every command of the documents against a running server.

Placeholders are replaced: URLs by the server's, `in_…` by an invoice, `$JWT` by a token. Where a
document shows the output of a command, the real output must have the same shape.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from paidup.reconciliation.stripe_events import HANDLED_TYPES
from tests.documents.commands import HERE
from tests.structure.pages import Command, pages
from tests.structure.sources import ROOT
from tests.support.paidup import Customer, Paidup, environment, serving_process
from tests.support.processes import free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("documents")

SANDBOX = "http://127.0.0.1:8001"
ADDRESSES = ("https://your.host", "https://paidup.internal", "http://127.0.0.1:8000")
EVERY = [command for page in pages() for command in page.commands() if HERE.match(command.text)]
COMMANDS = list(
    {command.text: command for command in sorted(EVERY, key=lambda each: bool(each.answer))}.values()
)
"""Each command once; preferably from a document that shows its output."""
SHELL = f"""set -eu
paidup() {{ {sys.executable} -m paidup.cli "$@"; }}
curl() {{ command curl --silent --show-error --fail-with-body "$@"; }}
"""


@dataclass(frozen=True)
class Running:
    """A server, and a customer (ada) who has paid for a plan."""

    home: Path
    url: str
    sandbox: str
    variables: dict[str, str]
    invoice: str

    def token(self, name: str, **claims: str) -> str:
        return Customer(Paidup(self.url, None), None, name).token(**claims)  # type: ignore[arg-type]

    def fill_in(self, text: str) -> str:
        for address in ADDRESSES:
            text = text.replace(address, self.url)
        text = text.replace(SANDBOX, self.sandbox)
        return text.replace("in_…", self.invoice)


@pytest.fixture(scope="module")
def running(scratch: Path, valkey: str, sandbox_url: str, sqlite_template: Path) -> Iterator[Running]:
    home = scratch / "documents"
    home.mkdir(exist_ok=True)
    shutil.copy(sqlite_template, home / "documents.db")
    shutil.copy(ROOT / ".env.example", home)
    port = free_port()
    variables = environment(
        redis_url=valkey,
        database_url=f"sqlite://{home / 'documents.db'}",
        stripe_api_base=sandbox_url,
        data_dir=home,
        port=port,
    )
    url = f"http://127.0.0.1:{port}"
    asyncio.run(_prepare(sandbox_url, url))
    server = serving_process(variables, port, home / "server.log", forked=True)
    try:
        yield Running(home, url, sandbox_url, variables, asyncio.run(_paid(sandbox_url, url)))
    finally:
        server.stop()


async def _prepare(sandbox: str, url: str) -> None:
    async with aiohttp.ClientSession() as http:
        stripe = StripeSide(sandbox, http)
        await stripe.begin()
        await stripe.create_endpoint(f"{url}/webhooks/stripe", HANDLED_TYPES)


async def _normal_conditions(sandbox: str) -> None:
    async with aiohttp.ClientSession() as http:
        await StripeSide(sandbox, http).control("conditions/reset")


async def _paid(sandbox: str, url: str) -> str:
    """Buy a plan as ada; returns the settled invoice."""
    async with aiohttp.ClientSession() as http:
        ada = Paidup(url, http).customer()
        purchase = await ada.buy()
        async with ada.watch(purchase):
            await StripeSide(sandbox, http).confirm(purchase["client_secret"])
            await wait_until(ada.balance, within=20)
        return str(purchase["invoice"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.where} {command.text}")
def test_documented_commands_work(running: Running, command: Command) -> None:
    buys = "/api/subscriptions" in command.text
    tokens = {
        "JWT": running.token("newcomer" if buys else "ada"),
        "BACKEND_JWT": running.token("ada", scope="backend"),
    }
    done = subprocess.run(
        ["bash", "-c", SHELL + running.fill_in(command.text)],
        cwd=running.home,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **running.variables, **tokens},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if SANDBOX in command.text:
        asyncio.run(_normal_conditions(running.sandbox))
    assert done.returncode == 0, f"{command.where}\n{done.stdout}{done.stderr}"
    if command.answer:
        assert shape(json.loads(done.stdout)) == shape(json.loads(command.answer)), command.where


def shape(value: Any) -> Any:
    """Return the keys and types of a JSON value."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__
