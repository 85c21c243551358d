"""The command `paidup`. Each command loads the settings, does one thing, and says how it went."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from prometheus_client import start_http_server
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from paidup.clock import now
from paidup.credits.audit import Finding, audit_all
from paidup.db.connection import migrate as run_migrations
from paidup.db.connection import open_database, storage_errors
from paidup.db.models import Account
from paidup.domain.catalog import parse_catalogue
from paidup.errors import ConfigurationError, PaidupError
from paidup.logs import configure_logging
from paidup.metrics import Metrics
from paidup.operations import backfill as by_hand
from paidup.operations import explain as explanations
from paidup.operations import explain_terminal
from paidup.operations.doctor.report import any_failed, invalid_settings, render_table
from paidup.operations.doctor.run import run_checks
from paidup.operations.stripe_setup import (
    EndpointSetup,
    PriceSetup,
    ensure_endpoint,
    ensure_prices,
    gateway_alone,
)
from paidup.services import open_services
from paidup.settings import ENV_FILE, Settings, load_settings
from paidup.stripe_api.gateway import API_VERSION
from paidup.uvicorn_server import serve as run_server

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

app = typer.Typer(
    name="paidup",
    help="Turns a confirmed Stripe payment into usable plan credits, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
complaints = Console(stderr=True)


@app.command()
def serve(
    workers: Annotated[
        int | None, typer.Option(help="Processes; default WEB_CONCURRENCY. They share one Redis.", min=1)
    ] = None,
) -> None:
    """Serve the API, the webhooks and the sockets."""
    settings = _settings()
    run_server(settings, workers or settings.web_concurrency)


@app.command()
def work(once: Annotated[bool, typer.Option(help="One round of sweeps, then end.")] = False) -> None:
    """Run the reconciler: find and settle what the browser and the webhook left open."""
    settings = _settings()
    configure_logging(settings.log_level, settings.log_format)
    _run(_work(settings, once))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date. Safe to run again."""
    settings = _settings()
    _run(run_migrations(settings.effective_database_url))
    console.print("The database is up to date.")


@app.command("stripe-setup")
def stripe_setup(
    webhook_url: Annotated[
        str | None,
        typer.Option(help="Make the webhook endpoint as well: https://your.host, or its whole address."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the products and prices of plans.toml, and the webhook endpoint, in your Stripe account."""
    # The secret is what making the endpoint gives: it cannot be asked for before.
    none_yet = {"STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(32)}"}
    settings = _quiet_settings(assumed=none_yet if webhook_url else None)
    prices, endpoint = _run(_stripe_setup(settings, webhook_url))
    if as_json:
        _print_json({"prices": prices, "endpoint": endpoint})
        return
    for made in prices:
        console.print(f"{made.state:8} {made.lookup_key} ({made.price})")
    if endpoint:
        _print_endpoint(endpoint)


@app.command()
def explain(
    reference: Annotated[
        str, typer.Argument(help="in_..., pi_..., sub_..., cus_... or your own id of the user.")
    ],
    as_json: Json = False,
) -> None:
    """Why is he not active? The whole timeline, who won, what is awaited, what to do."""
    found = _run(_with_database(_quiet_settings(), explanations.explain(reference)))
    if as_json:
        _print_json(found)
    elif found.found:
        console.print(explain_terminal.rendered(found))
    else:
        complaints.print(f"Nothing here is called {escape(reference)}: looked for {explanations.LOOKED_FOR}.")
    if not found.found:
        raise typer.Exit(1)


@app.command()
def doctor(
    webhook_url: Annotated[
        str | None, typer.Option(help="The address of our webhook endpoint; else its path tells.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="https://your.host, as browsers and Stripe see it: asked as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Examine all that Paidup stands on: each line is ok, or says what to do. Exit code 1 if one fails."""
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
    since: Annotated[str, typer.Option(help="A date or time, UTC unless it says else: 2026-11-01.")],
    as_json: Json = False,
) -> None:
    """Settle every paid invoice that Stripe lists since then. Safe to stop and to run again."""
    settings, when = _quiet_settings(), by_hand.since_when(since)
    counts: Counter[str] = Counter()
    try:
        _run(_backfill(settings, when, counts))
    finally:
        # However it ended: what was done is done.
        if as_json:
            _print_json({"since": when, "invoices": counts.total(), "outcomes": counts})
        else:
            console.print(f"{counts.total()} paid invoices since {when:%Y-%m-%d %H:%M} UTC")
            for outcome, invoices in sorted(counts.items()):
                console.print(f"{invoices:8} {outcome}")


@app.command()
def replay(
    event: Annotated[str, typer.Argument(help="evt_...; fetched from Stripe where it is not stored here.")],
    as_json: Json = False,
) -> None:
    """Handle an event again. Exit code 1 where it still cannot be handled."""
    done = _run(_replay(_quiet_settings(), event))
    if as_json:
        _print_json(done)
    else:
        console.print(f"{done.event} ({done.type}): {done.outcome}", markup=False, highlight=False)
    if not done.done:
        raise typer.Exit(1)


@app.command()
def audit(as_json: Json = False) -> None:
    """Compare balances, entries and grants. Repairs nothing; exit code 1 where they differ."""
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
    """Run the whole demo: sandbox (or your Stripe test keys from .env), server, reconciler, page."""
    # The only road from the server's package to the demo's, and only on this command.
    from paidup_demo.supervisor import run_demo  # noqa: PLC0415

    _run(run_demo())


def main() -> None:
    """The entry point: errors of ours are one clear message, and exit code 1 (2 for settings)."""
    try:
        app()
    except ConfigurationError as error:
        for problem in error.problems:
            complaints.print(f"[red]settings:[/red] {problem}", highlight=False)
        raise SystemExit(2) from None
    except PaidupError as error:
        complaints.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise SystemExit(1) from None


def _settings() -> Settings:
    return load_settings(env_file=ENV_FILE)


def _quiet_settings(assumed: dict[str, str] | None = None) -> Settings:
    """The settings of a command whose words are its answer: logs go to standard error, warnings only."""
    settings = load_settings(env_file=ENV_FILE, defaults=assumed)
    level = "WARNING" if settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.log_format)
    return settings


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_endpoint(endpoint: EndpointSetup) -> None:
    console.print(f"{endpoint.state:8} {endpoint.url} ({endpoint.id})", highlight=False)
    if endpoint.secret:
        console.print("Shown once. Put it into the environment or .env:")
        console.print(f"STRIPE_WEBHOOK_SECRET={endpoint.secret}", highlight=False, soft_wrap=True)
    if not endpoint.same_version:
        theirs = endpoint.api_version or "that of the account"
        console.print(
            f"Its API version is {theirs}, ours {API_VERSION}: an event of another version is read again, "
            "which costs a call. It cannot be changed: delete the endpoint in Stripe and run this again."
        )


@contextmanager
def _progress(words: str, total: int) -> Iterator[Progress]:
    """A bar on standard error, so that standard output stays the answer."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    hidden = not complaints.is_terminal
    with Progress(*columns, console=complaints, transient=True, disable=hidden) as progress:
        progress.add_task(words, total=total, done="")
        yield progress


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
        _show_metrics(settings, services.metrics)
        sweeping = asyncio.create_task(services.reconciler.run_forever(settings.reconciler_interval_s))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, sweeping.cancel)
        with suppress(asyncio.CancelledError):
            await sweeping


def _show_metrics(settings: Settings, metrics: Metrics) -> None:
    """A worker serves no HTTP but this. It ends with the process."""
    if not settings.worker_metrics_port:
        return
    try:
        start_http_server(settings.worker_metrics_port, settings.host, registry=metrics.registry)
    except OSError as error:
        raise ConfigurationError([f"WORKER_METRICS_PORT: {error}"]) from None


async def _stripe_setup(
    settings: Settings, webhook_url: str | None
) -> tuple[list[PriceSetup], EndpointSetup | None]:
    catalogue = parse_catalogue(settings.plans_file.read_bytes(), str(settings.plans_file))
    async with gateway_alone(settings) as gateway:
        prices = await ensure_prices(gateway, catalogue)
        return prices, await ensure_endpoint(gateway, webhook_url) if webhook_url else None


async def _with_database(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """`work` with our tables and nothing else: Stripe and Redis may be away."""
    try:
        async with open_database(settings.effective_database_url):
            return await work
    finally:
        work.close()


async def _backfill(settings: Settings, since: datetime, counts: Counter[str]) -> None:
    async with open_services(settings) as services:
        newest, oldest = now().timestamp(), since.timestamp()
        # How many there are nobody knows; how far back it has come fills the bar.
        with _progress("Paid invoices", round(newest - oldest)) as progress:

            def on_progress(done: int, created: int) -> None:
                bar = progress.task_ids[0]
                progress.update(bar, completed=newest - created, done=f"{done} invoices")

            await by_hand.backfill(services.gateway, services.reconciler, since, counts, on_progress)


async def _replay(settings: Settings, event: str) -> by_hand.Replayed:
    async with open_services(settings) as services:
        return await by_hand.replay(services.gateway, services.events, event)


async def _audit() -> tuple[int, list[Finding]]:
    with storage_errors():
        total = await Account.all().count()
    audited = 0
    with _progress("Accounts", total) as progress:

        def on_progress(accounts: int) -> None:
            nonlocal audited
            audited += accounts
            progress.update(progress.task_ids[0], completed=audited, done=f"{audited} accounts")

        findings = await audit_all(on_progress)
    return audited, findings


if __name__ == "__main__":
    main()
