"""Paidup in a host's process: the lifespan and `InProcess`."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.middleware.trustedhost import TrustedHostMiddleware
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.client import (
    APIConnectionError,
    InsufficientCreditsError,
    InvalidInputError,
    KeyReusedError,
    NotAuthenticatedError,
    ReservationClosedError,
)
from paidup.credits import account_states
from paidup.db.models import Account
from paidup.errors import ConfigurationError
from paidup.mounting import InProcess, create_app, running
from tests.support.factories import granted
from tests.support.paidup import settings
from tests.support.waiting import wait_until


@pytest.fixture
def configured(valkey: str, sqlite_template: Path, tmp_path: Path) -> Any:
    EXECUTOR_CACHE.clear()
    (tmp_path / "p.db").write_bytes(sqlite_template.read_bytes())
    return settings(
        redis_url=valkey,
        database_url=f"sqlite://{tmp_path / 'p.db'}",
        data_dir=tmp_path,
        stripe_api_base="http://127.0.0.1:9",
    )


async def test_a_host_spends_its_customers_credits(configured: Any) -> None:
    async with running(create_app(configured)) as credits:
        assert (await credits.credits("ada")).balance == 0
        ada = await Account.get(external_id="ada")
        ada.stripe_customer = "cus_ada"
        invoice = await granted(ada, 100)  # the invoice itself stays open
        assert (await credits.spend("ada", 30, "a")).balance == 70
        assert (await credits.spend("ada", 30, "a")).balance == 70
        with pytest.raises(KeyReusedError):
            await credits.spend("ada", 31, "a")
        assert (await credits.reserve("ada", 50, "work")).balance == 20
        with pytest.raises(InsufficientCreditsError) as refused:
            await credits.spend("ada", 21, "b")
        assert (refused.value.balance, refused.value.needed) == (20, 21)
        activating = refused.value.activating
        assert activating is not None
        assert activating.invoice == invoice.id
        assert (await credits.commit("ada", 40, "work")).balance == 30
        with pytest.raises(ReservationClosedError):
            await credits.release("ada", "work")
        await credits.reserve("ada", 5, "more")
        assert (await credits.release("ada", "more")).balance == 30
        assert (await credits.credits("ada")).balance == 30


async def test_invalid_arguments_are_refused(configured: Any) -> None:
    """A negative spend would grant credits, and PostgreSQL rejects NUL."""
    async with running(create_app(configured)) as mine:
        for credits in (0, -5, 2_000_000):
            with pytest.raises(InvalidInputError):
                await mine.spend("ada", credits, "k")
        for key in ("", "k" * 201):
            with pytest.raises(InvalidInputError):
                await mine.spend("ada", 1, key)
        for customer in ("a\x00", ""):
            with pytest.raises(NotAuthenticatedError):
                await mine.spend(customer, 1, "k")


async def test_process_settings_are_not_changed(configured: Any) -> None:
    def process() -> tuple[Any, ...]:
        root = logging.getLogger()
        return (
            *(gc.get_threshold(), gc.get_freeze_count(), root.level, list(root.handlers)),
            *(structlog.get_config(), signal.getsignal(signal.SIGTERM)),
        )

    before = process()
    async with running(create_app(configured)):
        assert process() == before


async def test_a_second_instance_in_one_process_is_refused(configured: Any) -> None:
    """Tortoise keeps one database per process, which a host's own use of it would share."""
    async with running(create_app(configured)) as first:
        with pytest.raises(ConfigurationError, match="in this process"):
            async with running(create_app(configured)):
                pass
        assert (await first.credits("ada")).balance == 0


async def test_middleware_for_clients_does_not_see_the_hosts_own_calls(configured: Any) -> None:
    app = create_app(configured)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["shop.example"])
    async with running(app) as credits:
        assert (await credits.credits("ada")).balance == 0


async def test_a_call_that_is_given_up_goes_on(configured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its deadline, or because its caller left: as over HTTP, the same key then gives its result."""
    wait, read = asyncio.Event(), account_states.read_states

    async def slow(*arguments: Any) -> Any:
        await wait.wait()
        return await read(*arguments)

    async with running(app := create_app(configured)) as patient:
        assert (await patient.credits("ada")).balance == 0
        ada = await Account.get(external_id="ada")
        ada.stripe_customer = "cus_ada"
        await granted(ada, 100)
        monkeypatch.setattr(account_states, "read_states", slow)
        async with InProcess(app, deadline_s=0.1) as hasty:
            with pytest.raises(APIConnectionError):
                await hasty.spend("ada", 30, "a")
            left = asyncio.create_task(patient.spend("ada", 5, "b"))
            await asyncio.sleep(0)
            left.cancel()
            wait.set()

            async def spent() -> bool:
                return (await patient.credits("ada")).balance == 65

            await wait_until(spent)
        assert (await patient.spend("ada", 30, "a")).credits == 30
        assert (await patient.credits("ada")).balance == 65
