"""`paidup doctor`: each line is made to fail once, and says what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from paidup.clock import now
from paidup.db.connection import connection, open_database
from paidup.db.models import Account, StripeEvent, Watermark
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import ConfigurationError
from paidup.operations.doctor import run as doctor
from paidup.operations.doctor.run import (
    CHECKS,
    SWEPT_EACH_MINUTE,
    SWEPT_WITHIN,
    Check,
    State,
    broken_settings,
    check_budget,
    check_mode,
    check_origins,
    check_reach,
    check_tokens,
    examine,
    failed,
)
from paidup.reconciliation.alarms import OVERDUE, SETTLED_WITHOUT
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.gateway import API_VERSION, EndpointInfo
from tests.conftest import World
from tests.support.factories import an_account, an_invoice
from tests.support.key_sets import jwk, published
from tests.support.paidup import settings
from tests.support.processes import free_port

URL = "https://paidup.example/webhooks/stripe"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def looked_at(world: World, **changes: Any) -> dict[str, Check]:
    """The doctor's lines by their names, of a server in this world."""
    return {check.name: check for check in await examine(settings(**world.given(**changes)))}


def says(check: Check, state: State, *words: str) -> None:
    assert check.state is state, check
    for word in words:
        assert word in f"{check.text} -> {check.recommendation}"
    assert (check.recommendation is None) is (check.see is None) is (state is State.OK)


async def test_where_all_is_well_every_line_is_ok(world: World) -> None:
    """The endpoint is made as stripe-setup makes it; a server and a reconciler run."""
    paidup = await world.process(webhooks=False)
    async with open_database(world.database_url):
        await Watermark.create(name=SWEPT_EACH_MINUTE, value="{}", moved_at=now())
    await world.stripe_side.api(
        "POST", "webhook_endpoints", url=URL, api_version=API_VERSION, **{"enabled_events[0]": "*"}
    )
    checks = await examine(settings(**world.given()), url=paidup.url)
    assert tuple(check.name for check in checks) == CHECKS
    assert [check for check in checks if check.state is not State.OK] == []
    assert not failed(checks)


def test_settings_that_cannot_work_are_a_line_each() -> None:
    checks = broken_settings(ConfigurationError(["SECRET_KEY is missing", "PORT: eighty"]))
    assert [(check.name, check.text) for check in checks] == [
        ("settings", "SECRET_KEY is missing"),
        ("settings", "PORT: eighty"),
    ]
    assert failed(checks)


def test_live_keys_on_what_is_for_one_machine_are_warned_of() -> None:
    says(check_mode(settings(**LIVE)), State.WARN, "SQLite and the embedded Valkey", "DATABASE_URL")
    stands = {"database_url": "postgresql://db/paidup", "redis_url": "redis://cache"}
    says(check_mode(settings(**LIVE, **stands)), State.OK, "live keys")
    says(check_mode(settings()), State.OK, "no money moves")


LIVE = {
    "stripe_secret_key": "sk_live_of_the_tests_and_of_no_account",
    "stripe_publishable_key": "pk_live_of_the_tests_and_of_no_account",
}


def test_origins_that_serve_nobody_fail_and_those_without_tls_are_warned_of() -> None:
    says(check_origins(settings()), State.OK, "http://app.example.test")
    says(check_origins(settings(**LIVE, allowed_origins="")), State.FAIL, "127.0.0.1", "ALLOWED_ORIGINS")
    says(check_origins(settings(**LIVE)), State.WARN, "without TLS: http://app.example.test")
    says(check_origins(settings(**LIVE, allowed_origins="https://app.example.test")), State.OK, "https://app")


def test_a_budget_that_stripe_does_not_allow_is_warned_of() -> None:
    says(check_budget(settings(stripe_requests_per_second=26)), State.WARN, "allows 25")
    says(check_budget(settings(stripe_requests_per_second=25)), State.OK)
    sandbox = settings(stripe_requests_per_second=1000, stripe_api_base="http://127.0.0.1:8001")
    says(check_budget(sandbox), State.OK)


async def test_how_customers_are_named_is_examined() -> None:
    says(await check_tokens(settings()), State.OK, "AUTH_JWT_SECRET")
    says(await check_tokens(settings(auth_jwt_secret="")), State.WARN, "401", "authenticate")
    async with key_set() as url:
        given: dict[str, Any] = {"auth_jwt_secret": "", "auth_jwks_url": url}
        says(await check_tokens(settings(**given)), State.WARN, "another application", "AUTH_JWT_AUDIENCE")
        says(await check_tokens(settings(**given, auth_jwt_audience="me")), State.OK, "1 keys at")
        says(await check_tokens(settings(**given, **LIVE)), State.FAIL, "without TLS")
    says(await check_tokens(settings(**given)), State.FAIL, "cannot be read", "AUTH_JWKS_URL")


@asynccontextmanager
async def key_set() -> AsyncIterator[str]:
    """The address of an identity provider's key set, with one key."""
    async with published(jwk(ec.generate_private_key(ec.SECP256R1()), "1")) as url:
        yield url


@on_sqlite
async def test_a_plans_file_that_is_malformed_fails(world: World, tmp_path: Path) -> None:
    path = tmp_path / "plans.toml"
    path.write_text("[[plans]]\nid = 'Pro!'\n")
    found = await looked_at(world, plans_file=path)
    says(found["plans"], State.FAIL, "plans.toml", "PLANS_FILE")
    assert "prices" not in found


@on_sqlite
async def test_stripe_away_fails_and_the_rest_is_examined(world: World) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    found = await looked_at(world, stripe_api_base=away, stripe_timeout_s=1)
    says(found["stripe"], State.FAIL, "STRIPE_API_BASE")
    assert "clock" not in found
    assert found["database"].state is found["redis"].state is State.OK


@on_sqlite
async def test_a_key_that_stripe_does_not_know_fails(world: World) -> None:
    found = await looked_at(world, stripe_secret_key="rk_test_of_the_tests_and_of_no_account")
    says(found["stripe"], State.FAIL, "HTTP 401", "STRIPE_SECRET_KEY")


@on_sqlite
@pytest.mark.parametrize(("seconds", "state"), [(20, State.WARN), (-20, State.WARN), (200, State.FAIL)])
async def test_a_clock_that_is_wrong_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: int, state: State
) -> None:
    """By the date of Stripe's own answer: beyond the tolerance its signatures would be refused."""
    monkeypatch.setattr(doctor, "now", lambda: now() + timedelta(seconds=seconds))
    found = await looked_at(world)
    says(found["clock"], state, "ahead of" if seconds > 0 else "behind", "NTP")


@on_sqlite
async def test_prices_that_are_missing_or_differ_fail(world: World, gold_plans: Path, tmp_path: Path) -> None:
    found = await looked_at(world, plans_file=gold_plans)
    says(found["prices"], State.FAIL, "no price gold_monthly", "stripe-setup")
    dearer = tmp_path / "dearer.toml"
    dearer.write_text(PACKAGED_PLANS.read_text().replace("amount_minor = 2900", "amount_minor = 3900"))
    found = await looked_at(world, plans_file=dearer)
    says(
        found["prices"],
        State.FAIL,
        "paidup_pro_monthly: 3900 usd month in the file, 2900 usd month in Stripe",
    )


@on_sqlite
async def test_no_endpoint_fails_and_names_those_that_there_are(world: World) -> None:
    says((await looked_at(world))["endpoint"], State.FAIL, "none at all", "stripe-setup --webhook-url")
    form = {"enabled_events[0]": "*", "url": "https://other.example/hooks"}
    await world.stripe_side.api("POST", "webhook_endpoints", **form)
    found = await looked_at(world)
    says(found["endpoint"], State.FAIL, "https://other.example/hooks")
    assert "endpoint state" not in found


def endpoint(**changes: Any) -> EndpointInfo:
    given = {
        "id": "we_1",
        "url": URL,
        "enabled_events": ["*"],
        "status": "enabled",
        "api_version": API_VERSION,
    }
    return EndpointInfo(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "line", "state", "words"),
    [
        ({"status": "disabled"}, "endpoint state", State.FAIL, "we_1 is disabled: nothing is delivered"),
        ({"enabled_events": ["invoice.paid"]}, "endpoint events", State.FAIL, "invoice.payment_succeeded"),
        ({"enabled_events": list(HANDLED_TYPES)}, "endpoint events", State.OK, "has all"),
        ({"api_version": "2024-06-20"}, "endpoint version", State.WARN, "2024-06-20; ours is"),
        ({"api_version": None}, "endpoint version", State.WARN, "the account's default version"),
        ({}, "endpoint", State.OK, URL),
    ],
)
def test_an_endpoint_is_judged_by_state_events_and_version(
    changes: dict[str, Any], line: str, state: State, words: str
) -> None:
    checks = doctor.judge_endpoints([endpoint(**changes)], None)
    (check,) = [check for check in checks if check.name == line]
    says(check, state, words)


def test_one_address_twice_is_warned_of_and_two_addresses_are_not() -> None:
    twice = [endpoint(), endpoint(id="we_2")]
    says(doctor.judge_endpoints(twice, None)[0], State.WARN, f"{URL} stands there twice")
    two = [endpoint(), endpoint(id="we_2", url="https://staging.example/webhooks/stripe")]
    says(doctor.judge_endpoints(two, None)[0], State.OK, URL, "staging")
    says(doctor.judge_endpoints(two, "https://third.example/webhooks/stripe")[0], State.FAIL, "third.example")
    assert len(doctor.judge_endpoints(two, URL)) == 4


@on_sqlite
async def test_a_database_that_is_away_fails_and_the_rest_is_examined(world: World) -> None:
    found = await looked_at(world, database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    says(found["database"], State.FAIL, "DATABASE_URL")
    assert "migrations" not in found
    assert found["stripe"].state is found["redis"].state is State.OK


async def test_migrations_that_were_not_applied_fail_and_unknown_ones_are_warned_of(
    world: World, tmp_path: Path
) -> None:
    found = await looked_at(world, database_url=f"sqlite://{tmp_path / 'new.db'}")
    says(found["migrations"], State.FAIL, "0001_initial", "paidup migrate")
    assert "books" not in found
    async with open_database(world.database_url):
        await connection().execute_script(
            "INSERT INTO tortoise_migrations (app, name, applied_at) "
            "VALUES ('paidup', '9999_later', '2026-11-23 09:00:00')"
        )
    says((await looked_at(world))["migrations"], State.WARN, "9999_later", "older than its database")


async def test_events_that_failed_are_warned_of_and_those_given_up_fail(world: World) -> None:
    """S15: parked is visible here, too."""
    body: dict[str, Any] = {
        "type": "invoice.paid",
        "payload": "{}",
        "received_at": now(),
        "error": "parked: unknown_price",
    }
    async with open_database(world.database_url):
        await StripeEvent.create(id="evt_1", attempts=1, next_attempt_at=now(), **body)
    says((await looked_at(world))["events"], State.WARN, "1 failed and are tried again")
    async with open_database(world.database_url):
        await StripeEvent.create(id="evt_2", attempts=12, **body)
    says((await looked_at(world))["events"], State.FAIL, "1 were given up", "paidup replay")


async def test_webhooks_that_are_silent_fail(world: World) -> None:
    """S35: verification keeps winning and no webhook ever comes: the doctor says so."""
    async with open_database(world.database_url):
        account, at = await an_account(), now() - timedelta(minutes=10)
        won: dict[str, Any] = {
            "status": InvoiceStatus.VOID,
            "settled_via": Source.VERIFICATION,
            "settled_at": at,
        }
        for _ in range(SETTLED_WITHOUT):
            await an_invoice(account, **won)
    found = (await looked_at(world))["webhooks"]
    says(found, State.FAIL, "credited without their webhooks", "none has ever come", "deliveries in Stripe")


async def test_a_reconciler_that_does_not_run_or_does_not_follow_fails(world: World) -> None:
    async with open_database(world.database_url):
        await Watermark.create(name="crowd", value="", moved_at=now())  # of a server, which sweeps nothing
    says((await looked_at(world))["reconciler"], State.WARN, "never read", "paidup work")
    async with open_database(world.database_url):
        await Watermark.create(name=SWEPT_EACH_MINUTE, value="{}", moved_at=now() - SWEPT_WITHIN * 2)
    says((await looked_at(world))["reconciler"], State.FAIL, "last read at", "paidup work")
    async with open_database(world.database_url):
        await an_invoice(await an_account(), next_check_at=now() - OVERDUE * 2)
    says((await looked_at(world))["reconciler"], State.FAIL, "1 invoices; the oldest for 20 minutes")


@on_sqlite
async def test_what_stands_between_the_world_and_the_server_is_examined(world: World) -> None:
    """Whatever answers in our place, or lets no socket through, is noticed."""
    paidup = await world.server()
    given = settings(**world.given())
    says(await check_reach(given, paidup.url + "/"), State.OK, "sockets open")
    says(await check_reach(given, world.stripe_side.url), State.FAIL, "answered 404; ours would be 400")
    elsewhere = settings(**world.given(allowed_origins="http://other.example"))
    says(await check_reach(elsewhere, paidup.url), State.FAIL, "refused with 403", "ALLOWED_ORIGINS")
    nobody = f"http://127.0.0.1:{free_port()}"
    says(await check_reach(given, nobody), State.FAIL, f"{nobody} does not answer")


async def test_books_that_do_not_add_up_fail(world: World) -> None:
    """S37: a balance that somebody changed by hand."""
    async with open_database(world.database_url):
        account = await an_account()
        await Account.filter(id=account.id).update(balance=7)
    says(
        (await looked_at(world))["books"], State.FAIL, account.external_id, "the balance is 7", "paidup audit"
    )


async def test_an_audit_that_has_no_time_left_says_how_far_it_came(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "AUDIT_FOR_S", 0)
    says((await looked_at(world))["books"], State.OK, "the first 0 accounts agree", "paidup audit")


@on_sqlite
async def test_redis_that_is_away_fails_and_the_rest_is_examined(world: World) -> None:
    found = await looked_at(world, redis_url=f"redis://127.0.0.1:{free_port()}")
    says(found["redis"], State.FAIL, "does not carry a message", "REDIS_URL")
    assert found["stripe"].state is found["database"].state is State.OK
