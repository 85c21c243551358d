"""Checks of the database: migrations, events, webhooks, the reconciler and the ledger."""

from __future__ import annotations

import time
from datetime import timedelta

from paidup.credits.audit import audit_slice
from paidup.db.applied_migrations import applied_migrations
from paidup.db.connection import open_database
from paidup.db.migrations import migrations_of_this_release
from paidup.db.models import EventSource, StripeEvent, Watermark
from paidup.errors import ConfigurationError, StorageUnavailable
from paidup.operations.doctor.report import Check, State, fail, ok, warn
from paidup.reconciliation.alarms import due_queues, reconciler_behind, webhook_silence
from paidup.reconciliation.maintenance import RUNS
from paidup.runtime.clock import now
from paidup.settings import Settings
from paidup.stripe_api.client import API_VERSION

MAX_SWEEP_AGE = timedelta(minutes=10)
AUDIT_TIME_LIMIT_S = 5.0
VERSION_LOOKBACK = timedelta(days=1)


async def check_database(settings: Settings) -> list[Check]:
    """Run all checks of the database, as far as it can be used."""
    try:
        async with open_database(settings.effective_database_url):
            migrated = await check_migrations()
            if migrated.state is State.FAIL:
                return [ok("database", "it responds"), migrated]
            return [
                *(ok("database", "it responds"), migrated),
                *(await check_events(), await check_webhooks(), await check_event_version()),
                *(await check_reconciler(settings.reconciler_in_server), await check_ledger()),
            ]
    except (ConfigurationError, StorageUnavailable) as error:
        return [fail("database", str(error), "check DATABASE_URL and that the database is running")]


async def check_migrations() -> Check:
    """Compare the applied migrations with those of this release."""
    files, applied = migrations_of_this_release(), await applied_migrations()
    if missing := sorted(files - applied):
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        return fail("migrations", f"not applied: {missing[0]}{others}", "run `paidup migrate`")
    if unknown := sorted(applied - files):
        recommendation = "deploy the release that added them: this one is older than its database"
        return warn(
            "migrations", f"applied but not part of this release: {', '.join(unknown)}", recommendation
        )
    return ok("migrations", f"all {len(files)} applied")


async def check_events() -> Check:
    """Whether stored events could not be handled."""
    failed = StripeEvent.filter(handled_at__isnull=True, attempts__gt=0)
    abandoned = await failed.filter(next_attempt_at__isnull=True).count()
    retried = await failed.count() - abandoned
    if abandoned:
        return fail(
            "events",
            f"{abandoned} were given up",
            "see /operators, fix the cause, then run `paidup replay evt_...`",
        )
    if retried:
        return warn("events", f"{retried} failed and will be retried", "see /operators for why")
    return ok("events", "all received events were handled")


async def check_webhooks() -> Check:
    """S35: whether webhooks arrive at all."""
    if alarm := await webhook_silence():
        return fail(
            "webhooks", alarm.text, "see the endpoint checks above, and the deliveries in Stripe's dashboard"
        )
    last = await StripeEvent.filter(source=EventSource.WEBHOOK).order_by("-received_at").first()
    when = f"the last one arrived at {last.received_at:%Y-%m-%d %H:%M} UTC" if last else "none received yet"
    return ok("webhooks", when)


async def check_event_version() -> Check:
    """Whether the last day's webhooks had the SDK's API version: each other one may cost a read."""
    lately = StripeEvent.filter(source=EventSource.WEBHOOK, received_at__gte=now() - VERSION_LOOKBACK)
    others = lately.filter(api_version__isnull=False).exclude(api_version=API_VERSION)
    newest = await others.order_by("-received_at").only("id", "api_version", "received_at").first()
    if newest is None:
        return ok("event version", f"{API_VERSION}, the SDK's version")
    return warn(
        "event version",
        f"{await others.count()} events of the last day came in another version, such as "
        f"{newest.api_version}; the SDK uses {API_VERSION}. A payment then costs up to two reads more",
        "give the endpoint the SDK's version; start `stripe listen` with --latest",
    )


async def check_reconciler(in_server: bool = False) -> Check:
    """Whether a reconciler runs and keeps up. `in_server`: the server runs it."""
    start = (
        "start the server (RECONCILER_IN_SERVER=true: it reconciles)" if in_server else "run `paidup work`"
    )
    if alarm := reconciler_behind(await due_queues()):
        more = "or `paidup work` beside it" if in_server else "or more processes of it"
        return fail("reconciler", alarm.text, f"{start}, {more}")
    last = await Watermark.get_or_none(name=RUNS)
    if last is None:
        return warn("reconciler", "no reconciler has run yet", start)
    if now() - last.moved_at > MAX_SWEEP_AGE:
        text = f"the reconciler last ran at {last.moved_at:%Y-%m-%d %H:%M} UTC"
        return fail("reconciler", text, start)
    return ok("reconciler", "running, and nothing is overdue")


async def check_ledger() -> Check:
    """S37: audit as many accounts as AUDIT_TIME_LIMIT_S allows."""
    deadline = time.monotonic() + AUDIT_TIME_LIMIT_S
    after: int | None = 0
    accounts = 0
    while after is not None and time.monotonic() < deadline:
        result = await audit_slice(after)
        accounts, after = accounts + result.accounts, result.last
        if result.findings:
            first = result.findings[0]
            return fail(
                "ledger", f"{first.subject}: {first.what}", "run `paidup audit` to list all mismatches"
            )
    if after is not None:
        return ok("ledger", f"the first {accounts} accounts are consistent; `paidup audit` checks all")
    return ok("ledger", f"all {accounts} accounts are consistent")
