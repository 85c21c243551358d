"""`paidup doctor`: every check fails when its subject is broken, and says what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from paidup.db.connection import connection, open_database
from paidup.db.models import Account, StripeEvent, Watermark
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import ConfigurationError
from paidup.operations.doctor import database_checks, stripe_checks
from paidup.operations.doctor.database_checks import MAX_SWEEP_AGE
from paidup.operations.doctor.network_checks import check_public_url, check_redis, open_redis
from paidup.operations.doctor.report import Check, State, any_failed, invalid_settings
from paidup.operations.doctor.run import CHECKS, run_checks
from paidup.operations.doctor.settings_checks import check_mode, check_origins, check_rate_limit, check_tokens
from paidup.operations.doctor.stripe_checks import judge_endpoints
from paidup.reconciliation.alarms import OVERDUE, SETTLED_WITHOUT_WEBHOOK
from paidup.reconciliation.maintenance import RUNS
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.runtime.clock import now
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.account import EndpointInfo
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.permissions import PERMISSIONS, Permission
from paidup_demo.sandbox.restricted_keys import RESOURCES
from tests.conftest import World
from tests.support.factories import an_account, an_invoice
from tests.support.key_sets import jwk, published
from tests.support.paidup import settings
from tests.support.processes import free_port
from tests.support.stripe_sandbox import StripeSide

URL = "https://paidup.example/webhooks/stripe"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def checks_by_name(world: World, **changes: Any) -> dict[str, Check]:
    """Run the doctor with the settings of this world."""
    return {check.name: check for check in await run_checks(settings(**world.given(**changes)))}


def assert_check(check: Check, state: State, *texts: str) -> None:
    assert check.state is state, check
    for text in texts:
        assert text in f"{check.text} -> {check.recommendation}"
    assert (check.recommendation is None) is (check.see is None) is (state is State.OK)


async def test_every_check_passes_on_a_healthy_system(world: World) -> None:
    """With the endpoint that stripe-setup creates, a running server and a running reconciler."""
    paidup = await world.process(webhooks=False)
    async with open_database(world.database_url):
        await Watermark.create(name=RUNS, value="{}", moved_at=now())
    await world.stripe_side.api(
        "POST", "webhook_endpoints", url=URL, api_version=API_VERSION, **{"enabled_events[0]": "*"}
    )
    checks = await run_checks(settings(**world.given()), url=paidup.url)
    assert tuple(check.name for check in checks) == CHECKS
    assert [check for check in checks if check.state is not State.OK] == []
    assert not any_failed(checks)


def test_every_invalid_setting_is_reported() -> None:
    checks = invalid_settings(ConfigurationError(["SECRET_KEY is missing", "PORT: eighty"]))
    assert [(check.name, check.text) for check in checks] == [
        ("settings", "SECRET_KEY is missing"),
        ("settings", "PORT: eighty"),
    ]
    assert any_failed(checks)


def test_live_keys_with_sqlite_or_embedded_valkey_warn() -> None:
    assert_check(check_mode(settings(**LIVE)), State.WARN, "SQLite and the embedded Valkey", "DATABASE_URL")
    production = {"database_url": "postgresql://db/paidup", "redis_url": "redis://cache"}
    assert_check(check_mode(settings(**LIVE, **production)), State.OK, "live keys")
    assert_check(check_mode(settings()), State.OK, "no real payments")


LIVE = {
    "stripe_secret_key": "sk_live_of_the_tests_and_of_no_account",
    "stripe_publishable_key": "pk_live_of_the_tests_and_of_no_account",
}


def test_missing_origins_fail_and_origins_without_tls_warn() -> None:
    assert_check(check_origins(settings()), State.OK, "http://app.example.test")
    assert_check(
        check_origins(settings(**LIVE, allowed_origins="")), State.FAIL, "127.0.0.1", "ALLOWED_ORIGINS"
    )
    assert_check(check_origins(settings(**LIVE)), State.WARN, "without TLS: http://app.example.test")
    assert_check(
        check_origins(settings(**LIVE, allowed_origins="https://app.example.test")), State.OK, "https://app"
    )


def test_a_rate_limit_above_stripes_limit_warns() -> None:
    assert_check(check_rate_limit(settings(stripe_requests_per_second=26)), State.WARN, "allows 25")
    assert_check(check_rate_limit(settings(stripe_requests_per_second=25)), State.OK)
    sandbox = settings(stripe_requests_per_second=1000, stripe_api_base="http://127.0.0.1:8001")
    assert_check(check_rate_limit(sandbox), State.OK)


async def test_authentication_settings_are_checked() -> None:
    assert_check(await check_tokens(settings()), State.OK, "AUTH_JWT_SECRET")
    assert_check(await check_tokens(settings(auth_jwt_secret="")), State.FAIL, "both missing", "authenticate")
    async with key_set() as url:
        given: dict[str, Any] = {"auth_jwt_secret": "", "auth_jwks_url": url}
        assert_check(
            await check_tokens(settings(**given)), State.WARN, "other applications", "AUTH_JWT_AUDIENCE"
        )
        assert_check(await check_tokens(settings(**given, auth_jwt_audience="me")), State.OK, "1 keys at")
        assert_check(await check_tokens(settings(**given, **LIVE)), State.FAIL, "without TLS")
    assert_check(await check_tokens(settings(**given)), State.FAIL, "cannot be read", "AUTH_JWKS_URL")


@asynccontextmanager
async def key_set() -> AsyncIterator[str]:
    """Serve a key set with one key; yields its URL."""
    async with published(jwk(ec.generate_private_key(ec.SECP256R1()), "1")) as url:
        yield url


@on_sqlite
async def test_a_malformed_plans_file_fails(world: World, tmp_path: Path) -> None:
    path = tmp_path / "plans.toml"
    path.write_text("[[plans]]\nid = 'Pro!'\n")
    found = await checks_by_name(world, plans_file=path)
    assert_check(found["plans"], State.FAIL, "plans.toml", "PLANS_FILE")
    assert "prices" not in found


@on_sqlite
async def test_other_checks_run_when_stripe_is_down(world: World) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    found = await checks_by_name(world, stripe_api_base=away, stripe_timeout_s=1)
    assert_check(found["stripe"], State.FAIL, "STRIPE_API_BASE")
    assert "clock" not in found
    assert found["database"].state is found["redis"].state is State.OK


@on_sqlite
async def test_an_unknown_stripe_key_fails(world: World) -> None:
    found = await checks_by_name(world, stripe_secret_key="rk_test_of_the_tests_and_of_no_account")
    assert_check(found["stripe"], State.FAIL, "HTTP 401", "STRIPE_SECRET_KEY")


async def restricted_key(world: World, wanted: Sequence[Permission]) -> str:
    """A restricted key with these permissions."""
    names = [f"{RESOURCES[one.path.split('/')[2]]}_{one.access}" for one in wanted]
    return str((await world.stripe_side.control("restricted_keys", {"permissions": names}))["key"])


@on_sqlite
@pytest.mark.parametrize("lacking", PERMISSIONS, ids=str)
async def test_each_permission_that_a_restricted_key_lacks_is_named(
    world: World, lacking: Permission
) -> None:
    """It is tried, one call for each; the call of a write names no object, so nothing changes."""
    key = await restricted_key(world, [one for one in PERMISSIONS if one is not lacking])
    found = await checks_by_name(world, stripe_secret_key=key)
    assert_check(found["permissions"], State.FAIL, f"missing: {lacking} ->", "Stripe's dashboard")


@on_sqlite
async def test_a_restricted_key_with_every_permission_passes(world: World) -> None:
    key = await restricted_key(world, PERMISSIONS)
    found = await checks_by_name(world, stripe_secret_key=key)
    assert_check(found["stripe"], State.OK, "restricted")
    assert_check(found["permissions"], State.OK, f"all {len(PERMISSIONS)}")
    assert found["prices"].state is found["clock"].state is State.OK
    whole = await checks_by_name(world)
    assert_check(whole["permissions"], State.OK, "a secret key")


@on_sqlite
@pytest.mark.parametrize(("seconds", "state"), [(20, State.WARN), (-20, State.WARN), (200, State.FAIL)])
async def test_a_wrong_clock_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: int, state: State
) -> None:
    """It is compared with the Date header of Stripe; a large difference would reject signatures."""
    monkeypatch.setattr(stripe_checks, "now", lambda: now() + timedelta(seconds=seconds))
    found = await checks_by_name(world)
    assert_check(found["clock"], state, "ahead of" if seconds > 0 else "behind", "NTP")


@on_sqlite
async def test_missing_or_different_prices_fail(world: World, gold_plans: Path, tmp_path: Path) -> None:
    found = await checks_by_name(world, plans_file=gold_plans)
    assert_check(found["prices"], State.FAIL, "no price gold_monthly", "stripe-setup")
    dearer = tmp_path / "dearer.toml"
    dearer.write_text(PACKAGED_PLANS.read_text().replace("amount_minor = 2900", "amount_minor = 3900"))
    found = await checks_by_name(world, plans_file=dearer)
    assert_check(
        found["prices"],
        State.FAIL,
        "paidup_pro_monthly: 3900 usd month in the file, 2900 usd month in Stripe",
    )


@on_sqlite
async def test_a_missing_endpoint_fails_and_the_others_are_listed(world: World) -> None:
    assert_check(
        (await checks_by_name(world))["endpoint"], State.FAIL, "it has: none", "stripe-setup --webhook-url"
    )
    form = {"enabled_events[0]": "*", "url": "https://other.example/hooks"}
    await world.stripe_side.api("POST", "webhook_endpoints", **form)
    found = await checks_by_name(world)
    assert_check(found["endpoint"], State.FAIL, "https://other.example/hooks")
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
        ({"status": "disabled"}, "endpoint state", State.FAIL, "we_1 is disabled: no events are delivered"),
        ({"enabled_events": ["invoice.paid"]}, "endpoint events", State.FAIL, "invoice.payment_succeeded"),
        ({"enabled_events": list(HANDLED_TYPES)}, "endpoint events", State.OK, "has all"),
        ({"api_version": "2024-06-20"}, "endpoint version", State.WARN, "2024-06-20; the SDK uses"),
        ({"api_version": None}, "endpoint version", State.WARN, "the account's default version"),
        ({}, "endpoint", State.OK, URL),
    ],
)
def test_the_endpoints_state_events_and_version_are_checked(
    changes: dict[str, Any], line: str, state: State, words: str
) -> None:
    checks = judge_endpoints([endpoint(**changes)], None)
    (check,) = [check for check in checks if check.name == line]
    assert_check(check, state, words)


def test_one_url_registered_twice_warns_and_two_urls_do_not() -> None:
    twice = [endpoint(), endpoint(id="we_2")]
    assert_check(judge_endpoints(twice, None)[0], State.WARN, f"{URL} is registered twice")
    two = [endpoint(), endpoint(id="we_2", url="https://staging.example/webhooks/stripe")]
    assert_check(judge_endpoints(two, None)[0], State.OK, URL, "staging")
    assert_check(
        judge_endpoints(two, "https://third.example/webhooks/stripe")[0], State.FAIL, "third.example"
    )
    assert len(judge_endpoints(two, URL)) == 4


@on_sqlite
async def test_other_checks_run_when_the_database_is_down(world: World) -> None:
    found = await checks_by_name(world, database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    assert_check(found["database"], State.FAIL, "DATABASE_URL")
    assert "migrations" not in found
    assert found["stripe"].state is found["redis"].state is State.OK


async def test_missing_migrations_fail_and_unknown_ones_warn(world: World, tmp_path: Path) -> None:
    found = await checks_by_name(world, database_url=f"sqlite://{tmp_path / 'new.db'}")
    assert_check(found["migrations"], State.FAIL, "0001_initial and ", " more", "paidup migrate")
    assert "ledger" not in found
    async with open_database(world.database_url):
        await connection().execute_script(
            "INSERT INTO tortoise_migrations (app, name, applied_at) "
            "VALUES ('paidup', '9999_later', '2026-11-23 09:00:00')"
        )
    assert_check(
        (await checks_by_name(world))["migrations"], State.WARN, "9999_later", "older than its database"
    )


async def test_failed_events_warn_and_abandoned_events_fail(world: World) -> None:
    """S15: parked events are visible here, too."""
    body: dict[str, Any] = {
        "type": "invoice.paid",
        "payload": "{}",
        "received_at": now(),
        "error": "parked: unknown_price",
    }
    async with open_database(world.database_url):
        await StripeEvent.create(id="evt_1", attempts=1, next_attempt_at=now(), **body)
    assert_check((await checks_by_name(world))["events"], State.WARN, "1 failed and will be retried")
    async with open_database(world.database_url):
        await StripeEvent.create(id="evt_2", attempts=12, **body)
    assert_check((await checks_by_name(world))["events"], State.FAIL, "1 were given up", "paidup replay")


async def test_missing_webhooks_fail(world: World) -> None:
    """S35: verification settles every invoice and no webhook arrives."""
    async with open_database(world.database_url):
        account, at = await an_account(), now() - timedelta(minutes=10)
        settled: dict[str, Any] = {
            "status": InvoiceStatus.VOID,
            "settled_via": Source.VERIFICATION,
            "settled_at": at,
        }
        for _ in range(SETTLED_WITHOUT_WEBHOOK):
            await an_invoice(account, **settled)
    found = (await checks_by_name(world))["webhooks"]
    assert_check(
        found,
        State.FAIL,
        "credited without their webhooks",
        "none has arrived for 7 days",
        "deliveries in Stripe",
    )


async def test_webhooks_of_another_version_are_reported(world: World) -> None:
    """S19: `stripe listen` without --latest."""
    assert (await checks_by_name(world))["event version"].state is State.OK
    async with open_database(world.database_url):
        event: dict[str, Any] = {"id": "evt_1", "type": "invoice.paid", "payload": "{}"}
        await StripeEvent.create(**event, received_at=now(), api_version="2024-06-20", handled_at=now())
    found = (await checks_by_name(world))["event version"]
    assert_check(found, State.WARN, "1 events", "2024-06-20", "stripe listen", "--latest")


async def test_a_stopped_or_slow_reconciler_is_reported(world: World) -> None:
    async with open_database(world.database_url):
        await Watermark.create(
            name="bulk_verification", value="", moved_at=now()
        )  # of a server, not a reconciler
    assert_check(
        (await checks_by_name(world))["reconciler"], State.WARN, "no reconciler has run yet", "paidup work"
    )
    async with open_database(world.database_url):
        await Watermark.create(name=RUNS, value="{}", moved_at=now() - MAX_SWEEP_AGE * 2)
    assert_check((await checks_by_name(world))["reconciler"], State.FAIL, "last ran at", "paidup work")
    async with open_database(world.database_url):
        await an_invoice(await an_account(), next_check_at=now() - OVERDUE * 2)
    assert_check(
        (await checks_by_name(world))["reconciler"], State.FAIL, "1 invoices; the oldest for 20 minutes"
    )


async def test_a_reconciler_in_the_server_is_started_with_the_server(world: World) -> None:
    inside: dict[str, Any] = {"reconciler_in_server": True}
    found = (await checks_by_name(world, **inside))["reconciler"]
    assert_check(found, State.WARN, "no reconciler has run yet", "start the server", "RECONCILER_IN_SERVER")
    assert "paidup work" not in str(found.recommendation)
    async with open_database(world.database_url):
        await Watermark.create(name=RUNS, value="{}", moved_at=now() - MAX_SWEEP_AGE * 2)
    found = (await checks_by_name(world, **inside))["reconciler"]
    assert_check(found, State.FAIL, "last ran at", "start the server")
    assert "paidup work" not in str(found.recommendation)


@on_sqlite
async def test_the_public_url_must_pass_webhooks_and_websockets(world: World) -> None:
    """Another server at the URL, a refused WebSocket and no response are each reported."""
    paidup = await world.server()
    given = settings(**world.given())
    assert_check(await check_public_url(given, paidup.url + "/"), State.OK, "WebSockets open")
    assert_check(
        await check_public_url(given, world.stripe_side.url), State.FAIL, "answered 404; Paidup answers 400"
    )
    elsewhere = settings(**world.given(allowed_origins="http://other.example"))
    assert_check(
        await check_public_url(elsewhere, paidup.url), State.FAIL, "refused with 403", "ALLOWED_ORIGINS"
    )
    nobody = f"http://127.0.0.1:{free_port()}"
    assert_check(await check_public_url(given, nobody), State.FAIL, f"{nobody} does not respond")


async def test_ledger_mismatches_fail(world: World) -> None:
    """S37: a balance that was changed by hand."""
    async with open_database(world.database_url):
        account = await an_account()
        await Account.filter(id=account.id).update(balance=7)
    assert_check(
        (await checks_by_name(world))["ledger"],
        State.FAIL,
        account.external_id,
        "the balance is 7",
        "paidup audit",
    )


async def test_an_audit_out_of_time_reports_its_progress(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_checks, "AUDIT_TIME_LIMIT_S", 0)
    assert_check(
        (await checks_by_name(world))["ledger"],
        State.OK,
        "the first 0 accounts are consistent",
        "paidup audit",
    )


@on_sqlite
async def test_other_checks_run_when_redis_is_down(world: World) -> None:
    port = free_port()
    found = await checks_by_name(world, redis_url=f"redis://ada:hidden@127.0.0.1:{port}/0")
    refused = f"redis://127.0.0.1:{port}/0 does not answer: ", "Connect call failed", "REDIS_URL"
    assert_check(found["redis"], State.FAIL, *refused)
    assert "hidden" not in str(found["redis"])
    assert found["stripe"].state is found["database"].state is State.OK


async def test_an_embedded_valkey_that_does_not_start_is_named(tmp_path: Path) -> None:
    """Where its directory would be, there is a file."""
    place = tmp_path / "data"
    place.write_text("")
    async with open_redis(settings(redis_url="", data_dir=place)) as redis:
        assert_check(await check_redis(redis), State.FAIL, str(place), "REDIS_URL")


@on_sqlite
async def test_archived_and_metered_prices_are_named(world: World, stripe_side: StripeSide) -> None:
    listed = (await stripe_side.api("GET", "prices?lookup_keys[0]=paidup_pro_monthly"))["data"]
    form = {"currency": "usd", "unit_amount": 2900, "product": listed[0]["product"]}
    form |= {"recurring[interval]": "month", "recurring[usage_type]": "metered", "recurring[meter]": "mtr_1"}
    form |= {"lookup_key": "paidup_pro_monthly", "transfer_lookup_key": "true"}
    metered = await stripe_side.api("POST", "prices", **form)
    assert_check((await checks_by_name(world))["prices"], State.FAIL, "paidup_pro_monthly: it is metered")
    await stripe_side.api("POST", f"prices/{metered['id']}", active="false")
    found = await checks_by_name(world)
    assert_check(found["prices"], State.FAIL, "paidup_pro_monthly (archived)", "stripe-setup")
