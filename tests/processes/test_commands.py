"""The commands: their output, their errors, and that they are safe to run again."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path

import pytest

from paidup.cli import COMMANDS
from paidup.db.models import Invoice
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.paidup import Paidup, environment
from tests.support.processes import Child
from tests.support.stripe_sandbox import LOOKUP_KEYS


def run(folder: Path, *arguments: str, forked: bool = False, **variables: str) -> tuple[int, str]:
    """Run `paidup`; returns the exit code and the output. One run of each command is not forked."""
    log = folder / f"{'-'.join(arguments)}.log"
    child = Child(["-m", "paidup.cli", *arguments], variables, log, cwd=folder, forked=forked)
    code = child.process.wait(60)
    words = child.output
    log.unlink()
    return code, words


def test_help_names_every_command(home: Path) -> None:
    """Each in one section."""
    code, words = run(home, "--help")
    assert code == 0
    listed = [line.split()[0] for line in words.splitlines() if re.match("  [a-z]", line)]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_every_missing_setting_is_named_with_exit_code_2(home: Path, command: str) -> None:
    code, words = run(home, command, PORT="eighty", forked=command == "migrate")
    assert code == 2
    named = ("SECRET_KEY", "STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY", "STRIPE_WEBHOOK_SECRET", "PORT")
    assert [name for name in named if f"settings: {name}" not in words] == []
    assert "Traceback" not in words


def test_settings_are_read_from_the_env_file(home: Path) -> None:
    (home / ".env").write_text("".join(f"{name}={value}\n" for name, value in environment().items()))
    assert run(home, "migrate")[0] == 0
    assert (home / ".paidup" / "paidup.db").is_file()


def test_migrate_is_safe_to_run_again(home: Path) -> None:
    for _ in range(2):
        assert run(home, "migrate", forked=True, **environment()) == (0, "The database is up to date.\n")


def test_a_stripe_that_does_not_answer_is_named_with_where_to_look(home: Path) -> None:
    given = environment(stripe_api_base="http://127.0.0.1:1")
    code, words = run(home, "stripe-setup", forked=True, **given)
    assert code == 1
    assert words.startswith("error: Stripe could not be asked (prices.list: ")
    assert "STRIPE_API_BASE" in words


def test_an_unreachable_database_is_an_error_without_a_traceback(home: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/nothing"
    code, words = run(home, "work", "--once", forked=True, **environment(database_url=url))
    assert code == 2
    assert words.startswith("settings: DATABASE_URL: postgresql://127.0.0.1:1/nothing does not answer")
    assert "Traceback" not in words


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_stripe_setup_reports_created_and_existing_prices(home: Path, world: World) -> None:
    for forked in (False, True):
        code, words = run(home, "stripe-setup", forked=forked, **environment(**world.given()))
        assert code == 0
        assert words.count("exists") == LOOKUP_KEYS
        assert "paidup_pro_monthly" in words


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_work_once_settles_a_missed_payment(world: World, home: Path) -> None:
    """S02: no webhook arrived, and the browser was closed right after confirming."""
    paidup: Paidup = await world.server(webhooks=False)
    ada = paidup.customer()
    purchase = await ada.buy("pro")
    await world.stripe_side.confirm(purchase["client_secret"])
    await Invoice.all().update(next_check_at=now() - timedelta(seconds=1))
    variables = environment(**world.given())
    code, words = await asyncio.to_thread(run, home, "work", "--once", forked=False, **variables)
    assert code == 0
    assert "due_invoices: 1" in words
    assert await ada.balance() == 2000
