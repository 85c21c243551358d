"""The `paidup` command line: one function for each command."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from prometheus_client import start_http_server
from rich.console import Console
from rich.markup import escape

from paidup.credits.audit import Finding, audit_all
from paidup.db.connection import migrate as run_migrations
from paidup.db.connection import open_database, storage_errors
from paidup.db.models import Account
from paidup.domain.catalog import parse_catalogue
from paidup.errors import ConfigurationError, PaidupError
from paidup.operations import backfill as backfills
from paidup.operations.dismissal import current_user, dismiss_events
from paidup.operations.doctor.report import any_failed, invalid_settings, render_table
from paidup.operations.doctor.run import run_checks
from paidup.operations.explain import REFERENCE_KINDS
from paidup.operations.explain import explain as explain_reference
from paidup.operations.explain_terminal import render_explanation
from paidup.operations.import_subscriptions import ImportOptions, ImportReport, SubscriptionImport
from paidup.operations.price_setup import PriceSetup, ensure_prices
from paidup.operations.progress import progress_bar
from paidup.operations.stripe_setup import (
    EndpointSetup,
    ensure_endpoint,
    open_gateway_only,
)
from paidup.runtime.clock import now
from paidup.runtime.logs import configure_logging
from paidup.runtime.metrics import Metrics
from paidup.services import open_services
from paidup.settings import ENV_FILE, Settings, load_settings
from paidup.stripe_api.client import API_VERSION
from paidup.uvicorn_server import serve as run_server

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]

app = typer.Typer(
    name="paidup",
    help="Turn confirmed Stripe payments into plan credits, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
error_console = Console(stderr=True)


@app.command()
def serve(
    workers: Annotated[
        int | None,
        typer.Option(help="Number of processes (default: WEB_CONCURRENCY). They share one Redis.", min=1),
    ] = None,
) -> None:
    """Serve the API, webhooks and WebSockets."""
    settings = _settings()
    run_server(settings, workers or settings.web_concurrency)


@app.command()
def work(once: Annotated[bool, typer.Option(help="Run every sweep once, then exit.")] = False) -> None:
    """Run the reconciler: settle payments that no browser and no webhook reported."""
    settings = _settings()
    configure_logging(settings.log_level, settings.log_format)
    _run(_work(settings, once))


@app.command()
def migrate() -> None:
    """Apply database migrations. Safe to run again."""
    settings = _settings()
    _run(run_migrations(settings.effective_database_url))
    console.print("The database is up to date.")


@app.command("stripe-setup")
def stripe_setup(
    webhook_url: Annotated[
        str | None,
        typer.Option(help="Also create the webhook endpoint: https://your.host, or its full URL."),
    ] = None,
    transfer_lookup_keys: Annotated[
        bool,
        typer.Option(help="Also create prices for those that differ from the file, with their lookup keys."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Create the products and prices of plans.toml, and the webhook endpoint, in your Stripe account."""
    # Stripe returns the secret when the endpoint is created, so it cannot be required before that.
    placeholder = {"STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(32)}"}
    settings = _quiet_settings(defaults=placeholder if webhook_url else None)
    prices, endpoint = _run(_stripe_setup(settings, webhook_url, transfer_lookup_keys))
    if as_json:
        _print_json({"prices": prices, "endpoint": endpoint})
        return
    for price in prices:
        console.print(f"{price.state:11} {price.lookup_key} ({price.price})")
    if endpoint:
        _print_endpoint(endpoint)


@app.command()
def explain(
    reference: Annotated[str, typer.Argument(help="in_..., pi_..., sub_..., cus_... or your own user id.")],
    as_json: Json = False,
) -> None:
    """Explain an invoice's status: its timeline, what it is waiting for, and what to do."""
    explanation = _run(_with_database(_quiet_settings(), explain_reference(reference)))
    if as_json:
        _print_json(explanation)
    elif explanation.found:
        console.print(render_explanation(explanation))
    else:
        error_console.print(f"Not found: no {REFERENCE_KINDS} matches {escape(reference)}.")
    if not explanation.found:
        raise typer.Exit(1)


@app.command()
def doctor(
    webhook_url: Annotated[
        str | None,
        typer.Option(help="URL of the webhook endpoint. Default: any endpoint with Paidup's path."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Also check the public URL, such as https://your.host.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check settings, Stripe, database and Redis. Exit code 1 if a check fails."""
    try:
        settings = _quiet_settings()
    except ConfigurationError as error:
        checks = invalid_settings(error)
    else:
        checks = _run(run_checks(settings, webhook_url, url))
    if as_json:
        _print_json({"ok": not any_failed(checks), "checks": checks})
    else:
        console.print(render_table(checks))
    if any_failed(checks):
        raise typer.Exit(1)


@app.command()
def backfill(
    since: Annotated[str, typer.Option(help="A date or time, UTC unless it has an offset: 2026-11-01.")],
    as_json: Json = False,
) -> None:
    """Settle every paid invoice created since a date. Safe to interrupt and to run again."""
    settings, when = _quiet_settings(), backfills.parse_since(since)
    counts: Counter[str] = Counter()
    try:
        _run(_backfill(settings, when, counts))
    finally:
        # Also after an error or Ctrl-C: invoices settled so far stay settled.
        if as_json:
            _print_json({"since": when, "invoices": counts.total(), "outcomes": counts})
        else:
            console.print(f"{counts.total()} paid invoices since {when:%Y-%m-%d %H:%M} UTC")
            for outcome, invoices in sorted(counts.items()):
                console.print(f"{invoices:8} {outcome}")


@app.command("import")
def import_subscriptions(
    account_metadata: Annotated[
        str | None,
        typer.Option(help="Your own metadata key, on subscriptions or customers, that holds your user ids."),
    ] = None,
    credit_current_period: Annotated[
        bool, typer.Option("--credit-current-period", help="Also credit what was paid for this period.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; say what would happen.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take up the subscriptions that exist in Stripe already. Safe to interrupt and to run again."""
    options = ImportOptions(account_metadata, credit_current_period, dry_run)
    report = ImportReport()
    try:
        _run(_import(_quiet_settings(), options, report))
    finally:  # also after Ctrl-C: what was taken up so far stays so
        if as_json:
            _print_json(report)
        else:
            console.print("\n".join(report.lines()), markup=False, highlight=False)
    if not report.complete:
        raise typer.Exit(1)


@app.command()
def replay(
    event: Annotated[str, typer.Argument(help="evt_...; fetched from Stripe if it is not stored.")],
    as_json: Json = False,
) -> None:
    """Handle a Stripe event again. Exit code 1 if it still cannot be handled."""
    done = _run(_replay(_quiet_settings(), event))
    if as_json:
        _print_json(done)
    else:
        console.print(f"{done.event} ({done.type}): {done.outcome}", markup=False, highlight=False)
    if not done.done:
        raise typer.Exit(1)


@app.command()
def dismiss(
    events: Annotated[list[str], typer.Argument(help="evt_...: events that were not handled.")],
    reason: Annotated[str, typer.Option(help="Why nothing is to be done about them. It is stored.")],
    by: Annotated[str, typer.Option(help="Who decided it. Default: your user name here.")] = "",
    as_json: Json = False,
) -> None:
    """End the alarm about events that need no handling. Nothing is credited."""
    work = dismiss_events(events, by or current_user(), reason)
    dismissed = _run(_with_database(_quiet_settings(), work))
    if as_json:
        _print_json({"dismissed": dismissed})
        return
    for each in dismissed:
        console.print(f"{each.event} ({each.type}): dismissed by {each.by}", markup=False, highlight=False)


@app.command()
def audit(as_json: Json = False) -> None:
    """Compare balances, ledger entries and grants. Changes nothing; exit code 1 if they differ."""
    settings = _quiet_settings()
    accounts, findings = _run(_with_database(settings, _audit()))
    if as_json:
        _print_json({"accounts": accounts, "differences": findings})
    else:
        for finding in findings:
            console.print(f"{finding.subject}: {finding.what}", markup=False, highlight=False)
        console.print(f"{accounts} accounts, {len(findings)} differences")
    if findings:
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Run the demo: Stripe sandbox (or your test keys from .env), server, reconciler and page."""
    # The only import of the demo's package, and only for this command.
    from paidup_demo.supervisor import run_demo  # noqa: PLC0415

    _run(run_demo())


def main() -> None:
    """Run the command line. Errors are one message and exit code 1, or 2 for invalid settings."""
    try:
        app()
    except ConfigurationError as error:
        for problem in error.problems:
            error_console.print(f"[red]settings:[/red] {escape(problem)}", highlight=False)
        raise SystemExit(2) from None
    except PaidupError as error:
        error_console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise SystemExit(1) from None


def _settings() -> Settings:
    return load_settings(env_file=ENV_FILE)


def _quiet_settings(defaults: dict[str, str] | None = None) -> Settings:
    """Load the settings of a command that prints its result: logs at INFO are suppressed."""
    settings = load_settings(env_file=ENV_FILE, defaults=defaults)
    level = "WARNING" if settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.log_format)
    return settings


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_endpoint(endpoint: EndpointSetup) -> None:
    console.print(f"{endpoint.state:8} {endpoint.url} ({endpoint.id})", highlight=False)
    if endpoint.secret:
        console.print("Shown once. Add it to the environment or .env:")
        console.print(f"STRIPE_WEBHOOK_SECRET={endpoint.secret}", highlight=False, soft_wrap=True)
    if not endpoint.same_version:
        version = endpoint.api_version or "the account's default"
        console.print(
            f"The endpoint's API version is {version}, the SDK's is {API_VERSION}. Each event costs an extra "
            "API call. To change the version, delete the endpoint in Stripe and run this again."
        )


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with suppress(KeyboardInterrupt):
        return asyncio.run(coroutine)
    raise SystemExit(130)


async def _work(settings: Settings, once: bool) -> None:
    async with open_services(settings) as services:
        if once:
            for sweep, rows in (await services.reconciler.sweep()).items():
                console.print(f"{sweep}: {rows}")
            return
        _serve_metrics(settings, services.metrics)
        reconciling = asyncio.create_task(services.reconciler.run_forever(settings.reconciler_interval_s))
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, reconciling.cancel)
        with suppress(asyncio.CancelledError):
            await reconciling


def _serve_metrics(settings: Settings, metrics: Metrics) -> None:
    """Serve the worker's metrics over HTTP until the process ends."""
    if not settings.worker_metrics_port:
        return
    try:
        start_http_server(settings.worker_metrics_port, settings.host, registry=metrics.registry)
    except OSError as error:
        raise ConfigurationError([f"WORKER_METRICS_PORT: {error}"]) from None


async def _stripe_setup(
    settings: Settings, webhook_url: str | None, transfer: bool
) -> tuple[list[PriceSetup], EndpointSetup | None]:
    catalogue = parse_catalogue(settings.plans_file.read_bytes(), str(settings.plans_file))
    async with open_gateway_only(settings) as gateway:
        prices = await ensure_prices(gateway, catalogue, transfer)
        return prices, await ensure_endpoint(gateway, webhook_url) if webhook_url else None


async def _with_database(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` with the database only; Stripe and Redis are not needed."""
    try:
        async with open_database(settings.effective_database_url):
            return await work
    finally:
        work.close()


async def _backfill(settings: Settings, since: datetime, counts: Counter[str]) -> None:
    async with open_services(settings) as services:
        newest, oldest = now().timestamp(), since.timestamp()
        # The number of invoices is unknown, so the bar shows how far back in time the backfill has come.
        with progress_bar("Paid invoices", round(newest - oldest)) as progress:

            def on_progress(done: int, created: int) -> None:
                bar = progress.task_ids[0]
                progress.update(bar, completed=newest - created, done=f"{done} invoices")

            await backfills.backfill(services.gateway, services.reconciler, since, counts, on_progress)


async def _import(settings: Settings, options: ImportOptions, report: ImportReport) -> None:
    async with open_services(settings) as services:
        with progress_bar("Subscriptions", None) as progress:  # their number is unknown

            def on_progress(done: int) -> None:
                progress.update(progress.task_ids[0], completed=done, done=f"{done} subscriptions")

            parts = (services.gateway, services.prices, services.subscriptions, services.verification)
            await SubscriptionImport(*parts, services.clock, options, report).run(on_progress)


async def _replay(settings: Settings, event: str) -> backfills.Replayed:
    async with open_services(settings) as services:
        return await backfills.replay(services.gateway, services.events, event)


async def _audit() -> tuple[int, list[Finding]]:
    with storage_errors():
        total = await Account.all().count()
    audited = 0
    with progress_bar("Accounts", total) as progress:

        def on_progress(accounts: int) -> None:
            nonlocal audited
            audited += accounts
            progress.update(progress.task_ids[0], completed=audited, done=f"{audited} accounts")

        findings = await audit_all(on_progress)
    return audited, findings


if __name__ == "__main__":
    main()
