"""Fixtures and helpers: commands as processes, and payments in the states that operators see."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paidup.db.connection import open_database
from paidup.db.models import StripeEvent, TimelineEntry
from paidup.reconciliation.stripe_events import GRACE
from paidup.services import Services, open_services
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.paidup import Paidup, environment, settings
from tests.support.processes import Child
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

Run = Callable[..., Awaitable[tuple[int, str]]]

OPERATOR_TOKEN = "token-of-the-operators"


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty working directory with a short path, without .env and data."""
    folder = Path(tempfile.mkdtemp(prefix="po-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(world: World, home: Path) -> Run:
    """Run `paidup` with these arguments; returns the exit code and the output."""

    async def run(*arguments: str, forked: bool = True, **changes: Any) -> tuple[int, str]:
        return await paidup_command(home, arguments, environment(**world.given(**changes)), forked)

    return run


async def paidup_command(
    home: Path, arguments: tuple[str, ...], variables: dict[str, str], forked: bool = True
) -> tuple[int, str]:
    log = home / "output.log"
    log.unlink(missing_ok=True)
    child = Child(["-m", "paidup.cli", *arguments], variables, log, cwd=home, forked=forked)
    try:
        return await asyncio.to_thread(child.process.wait, 60), child.output
    finally:
        child.stop()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[None]:
    """An open, empty database."""
    async with open_database(database_url):
        yield


@pytest.fixture
async def services(world: World) -> AsyncIterator[Services]:
    """All services of a server, with nothing listening in front of them."""
    async with open_services(settings(**world.given())) as opened:
        yield opened


@pytest.fixture
def gold_plans(tmp_path: Path) -> Path:
    """The packaged plans, and one more: gold, 9000 credits."""
    path = tmp_path / "gold.toml"
    gold = '[[plans]]\nid = "gold"\nname = "Gold"\ncredits = 9000\n\n'
    price = '[[plans.prices]]\nlookup_key = "gold_monthly"\namount_minor = 9900\ncurrency = "usd"\n'
    path.write_text(f"{PACKAGED_PLANS.read_text()}\n{gold}{price}")
    return path


def document(output: str) -> Any:
    """Return the JSON document in a command's output, which may have log lines around it."""
    return json.loads(output[output.index("{") : output.rindex("}") + 1])


async def paid_elsewhere(
    stripe_side: StripeSide, customer: str, lookup_key: str = "paidup_pro_monthly", **form: str
) -> str:
    """Create a subscription outside Paidup, paid at once by a stored card; returns its invoice."""
    prices = (await stripe_side.api("GET", f"prices?lookup_keys[]={lookup_key}"))["data"]
    card = await stripe_side.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    wanted = {"items[0][price]": prices[0]["id"], "default_payment_method": card["id"], **form}
    made = await stripe_side.api("POST", "subscriptions", customer=customer, **wanted)
    return str(made["latest_invoice"])


async def parked(paidup: Paidup, error: str) -> list[StripeEvent]:
    """Wait until all events were tried, and return those that stay unhandled for this reason."""

    async def all_tried() -> list[StripeEvent]:
        # Where a delivery took longer than its deadline, the first try is the reconciler's, after GRACE.
        await paidup.services.reconciler.due.events()
        rows = await StripeEvent.filter(error=f"parked: {error}", handled_at__isnull=True)
        return rows if {"invoice.paid", "invoice.payment_succeeded"} <= {row.type for row in rows} else []

    return await wait_until(all_tried, within=GRACE.total_seconds() + 30)


async def timeline_written(paidup: Paidup, invoice: str, event_type: str) -> None:
    """Wait until the timeline, which is written in batches, has an event of this type."""
    await wait_until(lambda: TimelineEntry.exists(invoice=invoice, event_type=event_type))
