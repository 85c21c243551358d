"""`paidup sandbox`: the imitation of Stripe as a command, and in a directory made by `paidup init`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stripe

from paidup.client import Paidup, signed_with
from paidup.domain.plans_toml import parse_catalogue
from paidup.settings import ENV_FILE, PACKAGED_PLANS, load_settings
from tests.sandbox.rig import Receiver
from tests.support.processes import ROOT, Child, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

SECRET = "whsec_of_this_test_and_of_no_endpoint_of_stripe"


@contextmanager
def running(folder: Path, port: int, *options: str) -> Iterator[Child]:
    command = ["-m", "paidup.cli", "sandbox", "--port", str(port), *options]
    child = Child(command, {}, folder / "sandbox.log", cwd=folder, forked=True)
    try:
        child.wait_for(f"http://127.0.0.1:{port}/sandbox/health")
        yield child
    finally:
        child.stop()


def run(*arguments: str) -> str:
    """What one command in this directory prints. It must succeed."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "paidup", *arguments]
    return subprocess.run(command, env=env, check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout


def refused(folder: Path, *options: str) -> tuple[int, list[str]]:
    """The exit code, and the lines that it wrote, of a sandbox that must not start."""
    command = ["-m", "paidup.cli", "sandbox", *options]
    child = Child(command, {"COLUMNS": "200"}, folder / "refused.log", cwd=folder, forked=True)
    try:
        return child.process.wait(60), child.output.splitlines()
    finally:
        child.stop()


async def test_the_prices_of_a_plans_file_exist_from_the_start_and_after_a_reset(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """With the products that `paidup stripe-setup` would make, which therefore finds nothing to do."""
    port = free_port()
    catalogue = parse_catalogue(PACKAGED_PLANS.read_bytes())
    expected = {
        (price.lookup_key, price.amount_minor, price.currency, plan.id)
        for plan in catalogue.plans
        for price in plan.prices
    }
    with running(tmp_path, port, "--plans", str(PACKAGED_PLANS)):
        side = StripeSide(f"http://127.0.0.1:{port}", http)
        for _ in range(2):
            products = {row["id"]: row for row in (await side.api("GET", "products?limit=100"))["data"]}
            prices = (await side.api("GET", "prices?limit=100"))["data"]
            found = {
                (
                    row["lookup_key"],
                    row["unit_amount"],
                    row["currency"],
                    products[row["product"]]["metadata"]["paidup_plan"],
                )
                for row in prices
            }
            assert found == expected
            assert len(prices) == len(expected)
            await side.control("reset")


async def test_events_go_to_the_url_signed_with_the_secret(
    tmp_path: Path, http: aiohttp.ClientSession, sandbox_receiver: Receiver
) -> None:
    port = free_port()
    with running(tmp_path, port, "--webhook-url", sandbox_receiver.url, "--webhook-secret", SECRET):
        await StripeSide(f"http://127.0.0.1:{port}", http).customer(email="ada@example.test")
        await wait_until(lambda: bool(sandbox_receiver.received), within=20)
    first = sandbox_receiver.received[0]
    event = stripe.Webhook.construct_event(first.body, first.signature, SECRET)
    assert event.type == "customer.created"


async def test_without_a_secret_a_new_one_is_printed_with_the_other_settings(
    tmp_path: Path, sandbox_receiver: Receiver
) -> None:
    port = free_port()
    with running(tmp_path, port, "--webhook-url", sandbox_receiver.url) as child:
        await wait_until(lambda: "Ctrl-C" in child.output, within=20)
        printed = dict(line.split("=", 1) for line in child.output.splitlines() if "=" in line)
    assert printed["STRIPE_API_BASE"] == f"http://127.0.0.1:{port}"
    # The settings take them as they are printed.
    load_settings(
        {
            **printed,
            "SECRET_KEY": "s3cret-of-this-test",
            "AUTH_JWT_SECRET": "secret-of-tokens-with-32-characters",
        }
    )


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = refused(tmp_path, "--port", str(port))
    assert code == 2
    assert lines == [
        f"settings: the sandbox cannot listen on 127.0.0.1:{port} (Address already in use): "
        "choose another --port"
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--webhook-url", "localhost:8000/hook"],
            "--webhook-url is not a URL such as http://127.0.0.1:8000/webhooks/stripe",
        ),
        (["--webhook-secret", SECRET], "--webhook-secret needs --webhook-url: where the events go"),
        (
            ["--webhook-url", "http://127.0.0.1:1/", "--webhook-secret", "secret"],
            "--webhook-secret begins with whsec_",
        ),
        (["--plans", "missing.toml"], "--plans: missing.toml: No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_line_that_says_what_to_do(
    tmp_path: Path, options: list[str], line: str
) -> None:
    assert refused(tmp_path, *options) == (2, [f"settings: {line}"])


async def test_settings_that_are_not_complete_are_not_followed_silently(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STRIPE_API_BASE=http://127.0.0.1:1\n")
    with running(tmp_path, free_port()) as child:
        await wait_until(lambda: "Ctrl-C" in child.output, within=20)
    assert ".env is not followed: " in child.output
    assert "Webhooks: none; see --webhook-url" in child.output


@pytest.mark.parametrize("command", ["sandbox", "demo"])
def test_an_installation_without_the_demo_says_so_in_one_line(tmp_path: Path, command: str) -> None:
    """As in the image, which has the server and the browser client only."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('paidup_demo.sandbox', 'paidup_demo.supervisor')));"
        f"sys.argv = ['paidup', '{command}']; from paidup.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: the demo and the sandbox are not in this image: pip install 'paidup[demo]'\n"
    )


async def test_init_sandbox_migrate_and_serve_sell_a_plan(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The four commands of the quick start, with no Stripe account; only the ports are this test's."""
    port, sandbox_port = free_port(), free_port()
    monkeypatch.chdir(tmp_path)
    await asyncio.to_thread(run, "init", "--sandbox")
    written = (tmp_path / ".env").read_text().replace(":8001", f":{sandbox_port}")
    (tmp_path / ".env").write_text(f"{written}PORT={port}\n")
    secret = load_settings({}, ENV_FILE).auth_jwt_secret
    with running(tmp_path, sandbox_port):
        await asyncio.to_thread(run, "migrate")
        server = Child(["-m", "paidup.cli", "serve"], {}, tmp_path / "server.log", tmp_path, forked=True)
        try:
            server.wait_for(f"http://127.0.0.1:{port}/readyz")
            side = StripeSide(f"http://127.0.0.1:{sandbox_port}", http)
            backend = Paidup(f"http://127.0.0.1:{port}", signed_with(secret))
            purchase = await asyncio.to_thread(backend.subscribe, "ada", "pro")
            assert purchase.client_secret
            await side.confirm(purchase.client_secret)
            events: list[Any] = []

            async def delivered() -> bool:
                events[:] = (await side.look("events"))["events"]
                return all(sent["status"] == "delivered" for each in events for sent in each["deliveries"])

            await wait_until(delivered, within=30)
            assert (await asyncio.to_thread(backend.credits, "ada")).balance == 2000
            doctor = await asyncio.to_thread(run, "doctor", "--json")
            endpoint = [check for check in json.loads(doctor)["checks"] if "endpoint" in check["name"]]
            assert {check["state"] for check in endpoint} == {"ok"}, endpoint
            assert "starting" in server.output
            assert f"http://127.0.0.1:{port}" in server.output
        finally:
            server.stop()
