"""`paidup sandbox`: the imitation of Stripe, alone."""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
import uvicorn

from paidup import __version__
from paidup.commands.output import console, error_console
from paidup.domain.catalog import Catalogue, Interval
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import ConfigurationError
from paidup.settings import ENV_FILE, Settings, load_settings
from paidup.stripe_api.price_shapes import PLAN_METADATA_KEY

if TYPE_CHECKING:
    from paidup_demo.sandbox.settings import InitialProduct, SandboxSettings

SANDBOX_KEYS = {
    "STRIPE_SECRET_KEY": "sk_test_paidup_sandbox_no_stripe_account",
    "STRIPE_PUBLISHABLE_KEY": "pk_test_paidup_sandbox_no_stripe_account",
}
"""The sandbox takes any test keys; these pass the checks of the settings."""


def sandbox(
    port: Annotated[
        int | None, typer.Option(help="The port (default: SANDBOX_PORT, or 8001).", min=1, max=65535)
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(help="Where events go: http://127.0.0.1:8000/webhooks/stripe.")
    ] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(help="Signs them: whsec_... (default: a new one, which is printed).")
    ] = None,
    plans: Annotated[
        Path | None, typer.Option(help="A plans.toml whose products and prices exist from the start.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A file that keeps the state (default: none).")] = None,
) -> None:
    """Run an imitation of the part of Stripe that Paidup uses, for development and tests.

    If the settings here (.env) have this sandbox as STRIPE_API_BASE, webhooks, plans and state follow them.
    """
    from paidup_demo.sandbox.app import create_sandbox  # noqa: PLC0415

    base = _environment()
    chosen = dataclasses.replace(base, port=port or base.port, data_file=data or base.data_file)
    own = _own_settings(chosen.port)
    chosen = _with_webhooks(_following(own, chosen) if own else chosen, webhook_url, webhook_secret)
    plans_file = plans or (own.plans_file if own else None)
    chosen = dataclasses.replace(chosen, products=_products(plans_file) if plans_file else ())
    config = uvicorn.Config(
        create_sandbox(chosen), log_level="warning", timeout_graceful_shutdown=3, ws="none"
    )
    with _listening(chosen.host, chosen.port) as listener, suppress(KeyboardInterrupt):
        _introduce(chosen, plans_file, configured=own is not None)
        uvicorn.Server(config).run(sockets=[listener])


def _environment() -> SandboxSettings:
    from paidup_demo.sandbox.settings import SandboxSettings, SettingsError  # noqa: PLC0415

    try:
        return SandboxSettings.from_env()
    except SettingsError as error:
        raise ConfigurationError([str(error)]) from None


def _own_settings(port: int) -> Settings | None:
    """The settings here, if they are complete and this sandbox is their Stripe."""
    try:
        settings = load_settings(env_file=ENV_FILE)
    except ConfigurationError as error:
        if ENV_FILE.is_file():
            problem = f"{ENV_FILE} is not followed: {error.problems[0]}"
            error_console.print(problem, markup=False, highlight=False, soft_wrap=True)
        return None
    if settings.sandboxed and urlsplit(settings.stripe_api_base).port == port:
        return settings
    return None


def _following(settings: Settings, chosen: SandboxSettings) -> SandboxSettings:
    """The sandbox of these settings: its events go to their server, and its state is kept beside theirs."""
    from paidup_demo.sandbox.settings import API_VERSION, WebhookTarget  # noqa: PLC0415

    url = f"http://127.0.0.1:{settings.port}/webhooks/stripe"
    target = WebhookTarget(url, settings.webhook_secrets[0], API_VERSION)  # as `paidup stripe-setup` makes it
    return dataclasses.replace(
        chosen,
        data_file=chosen.data_file or settings.data_dir / "sandbox.json",
        webhooks=chosen.webhooks or (target,),
        allowed_origins=tuple(sorted({*chosen.allowed_origins, *settings.origins})),
    )


def _with_webhooks(chosen: SandboxSettings, url: str | None, secret: str | None) -> SandboxSettings:
    from paidup_demo.sandbox.settings import WebhookTarget  # noqa: PLC0415

    problems = []
    if secret is not None and not secret.startswith("whsec_"):
        problems.append("--webhook-secret begins with whsec_")
    if secret is not None and url is None:
        problems.append("--webhook-secret needs --webhook-url: where the events go")
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        problems.append("--webhook-url is not a URL such as http://127.0.0.1:8000/webhooks/stripe")
    if problems:
        raise ConfigurationError(problems)
    if url is None:
        return chosen
    target = WebhookTarget(url, secret or f"whsec_{secrets.token_hex(24)}")
    return dataclasses.replace(chosen, webhooks=(target,))


def _products(path: Path) -> tuple[InitialProduct, ...]:
    """The products and prices that `paidup stripe-setup` would create for this file."""
    from paidup_demo.sandbox.settings import InitialPrice, InitialProduct  # noqa: PLC0415

    return tuple(
        InitialProduct(
            id=f"paidup_{plan.id}",
            name=plan.name,
            metadata=((PLAN_METADATA_KEY, plan.id),),
            prices=tuple(
                InitialPrice(
                    price.lookup_key,
                    price.currency,
                    price.amount_minor,
                    None if price.interval is Interval.ONCE else str(price.interval),
                )
                for price in plan.prices
            ),
        )
        for plan in _catalogue(path).plans
    )


def _catalogue(path: Path) -> Catalogue:
    try:
        return parse_catalogue(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigurationError([f"--plans: {path}: {error.strerror}"]) from None


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens here. Raises ConfigurationError if another program does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        problem = f"the sandbox cannot listen on {host}:{port} ({reason}): choose another --port"
        raise ConfigurationError([problem]) from None


def _introduce(chosen: SandboxSettings, plans: Path | None, configured: bool) -> None:
    """Say where the sandbox is, what it sends where, and the settings of a Paidup that uses it."""
    url = f"http://{chosen.host}:{chosen.port}"
    prices = sum(len(product.prices) for product in chosen.products)
    lines = [
        f"Paidup {__version__} sandbox: {url} (an imitation of Stripe; no real payments)",
        f"Webhooks: {', '.join(hook.url for hook in chosen.webhooks) or 'none; see --webhook-url'}",
        f"Prices:   {f'{prices} of {plans}' if plans else 'none; see --plans'}",
    ]
    if not configured:
        wanted = {"STRIPE_API_BASE": url, **SANDBOX_KEYS}
        if chosen.webhooks:
            wanted["STRIPE_WEBHOOK_SECRET"] = chosen.webhooks[0].secret
        lines += [
            "Settings of a Paidup that uses it:",
            *(f"{name}={value}" for name, value in wanted.items()),
        ]
    console.print("\n".join([*lines, "Press Ctrl-C to stop."]), markup=False, highlight=False, soft_wrap=True)
