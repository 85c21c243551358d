"""Checks of the settings, the plans file and the identity provider's key set."""

from __future__ import annotations

from urllib.parse import urlsplit

from paidup.domain.catalog import Catalogue
from paidup.errors import ConfigurationError
from paidup.key_sets import KeySetUnavailable, fetch_keys
from paidup.operations.doctor.report import Check, fail, ok, warn
from paidup.runtime.plans_file import read_catalogue
from paidup.settings import Settings, authentication_problems

STRIPE_REQUESTS_PER_S = 25
"""Stripe's limit for one API endpoint, unless Stripe has raised it for the account."""


def check_mode(settings: Settings) -> Check:
    if settings.sandboxed:
        return ok("mode", f"test keys, with a sandbox at {settings.stripe_api_base}")
    if not settings.livemode:
        return ok("mode", "test keys: no real payments")
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
        catalogue = read_catalogue(settings.plans_file)
    except ConfigurationError as error:
        return None, fail("plans", str(error), "correct the plans file (PLANS_FILE)")
    return catalogue, ok("plans", ", ".join(f"{plan.id} {plan.credits}" for plan in catalogue.plans))


async def check_tokens(settings: Settings) -> Check:
    """How customers are authenticated."""
    if settings.auth_jwt_secret and not settings.auth_jwks_url:
        return ok("tokens", "verified by AUTH_JWT_SECRET")
    if missing := authentication_problems(settings):
        recommendation = (
            "`paidup serve` does not start (ignore this if you pass `authenticate` to create_app)"
        )
        return fail("tokens", "; ".join(missing), recommendation)
    try:
        keys = await fetch_keys(settings.auth_jwks_url, settings.outgoing)
    except KeySetUnavailable as error:
        return fail("tokens", f"the key set cannot be read: {error}", "see AUTH_JWKS_URL")
    if settings.livemode and urlsplit(settings.auth_jwks_url).scheme != "https":
        text = "the key set is fetched without TLS: an attacker on the network can impersonate customers"
        return fail("tokens", text, "use an https URL for AUTH_JWKS_URL")
    if not settings.auth_jwt_audience:
        text = "tokens that the identity provider issued for other applications are accepted"
        return warn("tokens", text, "set AUTH_JWT_AUDIENCE")
    backend = "; AUTH_JWT_SECRET verifies your backend's" if settings.auth_jwt_secret else ""
    return ok("tokens", f"{len(keys)} keys at {settings.auth_jwks_url}{backend}")


def check_origins(settings: Settings) -> Check:
    """Which pages may open WebSockets and call the API."""
    listed = ", ".join(settings.origins)
    if not settings.livemode:
        return ok("origins", listed)
    if not settings.allowed_origins:
        return fail("origins", f"only {listed}", "set ALLOWED_ORIGINS to your application's origins")
    if without_tls := [origin for origin in settings.origins if origin.startswith("http://")]:
        return warn("origins", f"without TLS: {', '.join(without_tls)}", "remove them from ALLOWED_ORIGINS")
    return ok("origins", listed)


def check_rate_limit(settings: Settings) -> Check:
    per_s = settings.stripe_requests_per_second
    if per_s > STRIPE_REQUESTS_PER_S and not settings.sandboxed:
        text = f"{per_s} requests per second; Stripe allows {STRIPE_REQUESTS_PER_S} for one endpoint"
        return warn(
            "rate limit", text, "lower STRIPE_REQUESTS_PER_SECOND, unless Stripe has raised your limit"
        )
    return ok("rate limit", f"{per_s} requests per second for each Stripe endpoint")
