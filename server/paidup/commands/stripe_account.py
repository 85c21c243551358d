"""The commands that set up the Stripe account and take up what is in it."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from paidup.commands.coroutines import run
from paidup.commands.output import console
from paidup.commands.shared import Json, print_json, quiet_settings
from paidup.operations import backfill as backfills
from paidup.operations.import_subscriptions import ImportOptions, ImportReport, SubscriptionImport
from paidup.operations.price_setup import PriceSetup, ensure_prices
from paidup.operations.progress import progress_bar, progress_steps
from paidup.operations.stripe_setup import (
    EndpointSetup,
    ensure_endpoint,
    open_gateway_only,
)
from paidup.operations.webhook_probe import endpoint_notes
from paidup.runtime.clock import now
from paidup.runtime.plans_file import read_catalogue
from paidup.services import open_services
from paidup.settings import Settings
from paidup.stripe_api.client import API_VERSION


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
    settings = quiet_settings(defaults=placeholder if webhook_url else None)
    prices, endpoint = run(_stripe_setup(settings, webhook_url, transfer_lookup_keys))
    if as_json:
        print_json({"prices": prices, "endpoint": endpoint})
        return
    for price in prices:
        console.print(f"{price.state:11} {price.lookup_key} ({price.price})", highlight=False)
        if price.advice:
            console.print(f"{'':11} {price.advice}", markup=False, highlight=False)
    if endpoint:
        _print_endpoint(endpoint)


def backfill(
    since: Annotated[str, typer.Option(help="A date or time, UTC unless it has an offset: 2026-11-01.")],
    as_json: Json = False,
) -> None:
    """Settle every paid invoice created since a date. Safe to interrupt and to run again."""
    settings, when = quiet_settings(), backfills.parse_since(since)
    counts: Counter[str] = Counter()

    def show() -> None:
        if as_json:
            print_json({"since": when, "invoices": counts.total(), "outcomes": counts})
            return
        console.print(f"{counts.total()} paid invoices since {when:%Y-%m-%d %H:%M} UTC")
        for outcome, invoices in sorted(counts.items()):
            console.print(f"{invoices:8} {outcome}")

    with _shown_at_the_end(show, counts, as_json):
        run(_backfill(settings, when, counts))


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
    """Import the subscriptions that already exist in Stripe. Safe to interrupt and to run again."""
    options = ImportOptions(account_metadata, credit_current_period, dry_run)
    report = ImportReport()

    def show() -> None:
        if as_json:
            print_json(report)
        else:
            console.print("\n".join(report.lines()), markup=False, highlight=False)

    with _shown_at_the_end(show, report.outcomes, as_json):
        run(_import(quiet_settings(), options, report))
    if not report.complete:
        raise typer.Exit(1)


@contextmanager
def _shown_at_the_end(show: Callable[[], None], done: Counter[Any], always: bool) -> Iterator[None]:
    """Also after an error or Ctrl-C: what is `done` so far stays so. `always`: even where that is nothing."""
    try:
        yield
    except BaseException:
        if done or always:
            show()
        raise
    show()


def _print_endpoint(endpoint: EndpointSetup) -> None:
    console.print(f"{endpoint.state:8} {endpoint.url} ({endpoint.id})", highlight=False)
    if endpoint.secret:
        console.print("Shown once. Add it to the environment or .env:")
        console.print(f"STRIPE_WEBHOOK_SECRET={endpoint.secret}", highlight=False, soft_wrap=True)
    for note in endpoint.notes:
        console.print(f"{'':8} {note}", markup=False, highlight=False)
    if not endpoint.same_version:
        version = endpoint.api_version or "the account's default"
        console.print(
            f"The endpoint's API version is {version}, the SDK's is {API_VERSION}. Each event costs an extra "
            "API call. To change the version, delete the endpoint in Stripe and run this again."
        )


async def _stripe_setup(
    settings: Settings, webhook_url: str | None, transfer: bool
) -> tuple[list[PriceSetup], EndpointSetup | None]:
    catalogue = read_catalogue(settings.plans_file)
    steps = len(catalogue.lookup_keys) + (2 if webhook_url else 0)
    with progress_steps("Stripe", steps) as on_step:
        async with open_gateway_only(settings) as gateway:
            prices = await ensure_prices(gateway, catalogue, transfer, on_step)
            if not webhook_url:
                return prices, None
            on_step("webhook endpoint")
            endpoint = await ensure_endpoint(gateway, webhook_url)
        on_step(endpoint.url)
        secret = endpoint.secret or settings.webhook_secrets[0]
        notes = await endpoint_notes(endpoint.url, secret, settings.livemode, settings.outgoing)
    return prices, replace(endpoint, notes=notes)


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
