"""`paidup init`: writes a plans.toml and a .env to start from."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from paidup.commands.output import console
from paidup.errors import PaidupError
from paidup.runtime.private_files import PRIVATE_FILE
from paidup.settings import ENV_FILE, PACKAGED_PLANS

PLANS_FILE = Path("plans.toml")
PUBLIC_FILE = 0o644
LIVE = Template("""\
# Stripe's two API keys of one mode: https://dashboard.stripe.com/test/apikeys
STRIPE_SECRET_KEY=
STRIPE_PUBLISHABLE_KEY=
# Printed by `paidup stripe-setup --webhook-url https://your.host` or by `stripe listen`.
STRIPE_WEBHOOK_SECRET=
""")
SANDBOX = Template("""\
# `paidup sandbox`, an imitation of Stripe on this machine. With an account of your own, remove
# STRIPE_API_BASE, and replace the keys and the webhook secret.
STRIPE_API_BASE=http://127.0.0.1:8001
STRIPE_SECRET_KEY=sk_test_paidup_sandbox_no_stripe_account
STRIPE_PUBLISHABLE_KEY=pk_test_paidup_sandbox_no_stripe_account
STRIPE_WEBHOOK_SECRET=whsec_$webhook
""")
ENVIRONMENT = Template("""\
# The settings of Paidup, with secrets: keep this file private and out of the repository.
# Environment variables override it. It has the most important settings; docs/settings.md has all.

$stripe
# Signs the tickets that open WebSockets.
SECRET_KEY=$secret
# Your backend signs its users' tokens with it. An identity provider's keys instead: AUTH_JWKS_URL.
AUTH_JWT_SECRET=$tokens
# Operators sign in at /operators with it.
OPERATOR_TOKEN=$operators

# The plans on sale.
PLANS_FILE=plans.toml
# Origins of the pages that use Paidup, separated by commas. If unset, this server's own address.
# ALLOWED_ORIGINS=https://app.example.com
# If unset, a SQLite file under .paidup: postgresql://user:password@host/name
# DATABASE_URL=
# If unset, an embedded Valkey: redis://host:6379/0
# REDIS_URL=
# The server also settles what no browser and no webhook reported. With `paidup work`, set it to false.
RECONCILER_IN_SERVER=true
""")


class FilesExist(PaidupError):
    """`paidup init` would overwrite files."""


def init(
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Use `paidup sandbox` instead of a Stripe account.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite plans.toml and .env.")] = False,
) -> None:
    """Write a commented plans.toml and a .env with fresh secrets into this directory."""
    existing = [str(path) for path in (PLANS_FILE, ENV_FILE) if os.path.lexists(path)]
    if existing and not force:
        names, them = (" and ".join(existing), "them") if len(existing) > 1 else (existing[0], "it")
        verb = "exist" if len(existing) > 1 else "exists"
        raise FilesExist(f"{names} {verb} already; --force overwrites {them}. Nothing was written")
    _write(PLANS_FILE, PACKAGED_PLANS.read_text(), PUBLIC_FILE)
    _write(ENV_FILE, _environment(sandbox), PRIVATE_FILE)
    for line in _next_steps(sandbox):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _environment(sandbox: bool) -> str:
    stripe = SANDBOX if sandbox else LIVE
    return ENVIRONMENT.substitute(
        stripe=stripe.substitute(webhook=secrets.token_hex(24)),
        secret=secrets.token_urlsafe(32),
        tokens=secrets.token_urlsafe(32),
        operators=secrets.token_urlsafe(24),
    )


def _write(path: Path, text: str, mode: int) -> None:
    """Replace the file in one step. Its mode holds from the start, and a link is replaced, not followed."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as file:
            file.write(text)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _next_steps(sandbox: bool) -> list[str]:
    written = (
        "Wrote plans.toml (your plans and prices) and .env (settings and fresh secrets; keep it private)."
    )
    if sandbox:
        return [
            written,
            "Next: `paidup sandbox` in one terminal; `paidup migrate` and `paidup serve` in another.",
        ]
    return [written, "Next: fill in the Stripe keys in .env, then `paidup stripe-setup` and `paidup doctor`."]
