"""Checks of the Stripe account: key, clock, prices and webhook endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

from paidup.domain.catalog import Catalogue
from paidup.errors import StripeError, StripeRefused
from paidup.operations.doctor.report import Check, State, fail, ok, warn
from paidup.operations.stripe_setup import WEBHOOK_PATH
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.runtime.clock import now
from paidup.runtime.redis_client import RedisClient
from paidup.settings import Settings
from paidup.stripe_api.account import EndpointInfo
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.gateway import StripeGateway, open_gateway
from paidup.stripe_api.permissions import PERMISSIONS, REFUSED
from paidup.stripe_api.price_differences import differences
from paidup.stripe_api.rate_limiter import RateLimiter

CLOCK_TOLERANCE_S = 5.0
"""Smaller differences are not reported: Stripe's Date header has whole seconds, and the call takes time."""


async def check_stripe_account(
    settings: Settings, redis: RedisClient, catalogue: Catalogue | None, webhook_url: str | None
) -> list[Check]:
    """Run all checks of the Stripe account, or only the first if Stripe cannot be reached."""
    rate_limiter = RateLimiter(redis, settings.stripe_requests_per_second)
    key, base, account = settings.stripe_secret_key, settings.stripe_api_base, settings.stripe_account
    timeout_s, outgoing = settings.stripe_timeout_s, settings.outgoing
    opened = open_gateway(key, base, timeout_s, rate_limiter, connected_account=account, outgoing=outgoing)
    async with opened as gateway:
        key_check = await check_key(gateway, settings)
        if key_check.state is State.FAIL:
            return [key_check]
        checks = [
            *(key_check, await check_permissions(gateway, settings)),
            await check_clock(gateway, settings.webhook_tolerance_s),
        ]
        if catalogue:
            checks.append(await check_prices(gateway, catalogue, settings.sells_at_stripes_prices))
        return checks + await check_endpoints(gateway, webhook_url)


async def check_key(gateway: StripeGateway, settings: Settings) -> Check:
    """Whether Stripe answers, and which account the key belongs to."""
    try:
        return ok("stripe", f"account {await gateway.account.read_id()}")
    except StripeRefused as error:
        if error.http_status == 401:
            return fail("stripe", str(error), "set STRIPE_SECRET_KEY to a key of your account")
        if error.http_status == REFUSED and settings.restricted_key:
            return ok("stripe", "it answers; this restricted key may not read which account it belongs to")
        if settings.sandboxed:
            return ok("stripe", "the sandbox answers; it has no account")
        return warn("stripe", str(error), "see Stripe's dashboard for this request")
    except StripeError as error:
        return fail(
            "stripe", str(error), "see status.stripe.com, STRIPE_API_BASE and this host's outbound network"
        )


async def check_permissions(gateway: StripeGateway, settings: Settings) -> Check:
    """Whether a restricted key has every permission that Paidup needs; a secret key has all."""
    if not settings.restricted_key:
        return ok("permissions", "a secret key: it may do everything")
    try:
        missing = await gateway.account.missing_permissions(PERMISSIONS)
    except StripeError as error:
        return _not_checked("permissions", error)
    if missing:
        names = ", ".join(map(str, missing))
        return fail("permissions", f"missing: {names}", "add them to the key in Stripe's dashboard")
    return ok("permissions", f"all {len(PERMISSIONS)} that a restricted key needs")


async def check_clock(gateway: StripeGateway, tolerance_s: int) -> Check:
    """Compare this host's clock with Stripe's; the host's clock decides whether a signature is too old."""
    try:
        started_at = now()
        stripe_time = await gateway.account.read_clock()
    except StripeError as error:
        return _not_checked("clock", error)
    if stripe_time is None:
        return warn("clock", "Stripe's response has no date", "check this host's clock yourself")
    return judge_clock(started_at + (now() - started_at) / 2, stripe_time, tolerance_s)


def judge_clock(host_time: datetime, stripe_time: datetime, tolerance_s: int) -> Check:
    skew = (host_time - stripe_time).total_seconds()
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} Stripe's"
    if abs(skew) > tolerance_s / 2:
        return fail("clock", text, "set this host's clock (NTP): webhook signatures are rejected")
    if abs(skew) > CLOCK_TOLERANCE_S:
        return warn("clock", text, "set this host's clock (NTP)")
    return ok("clock", f"within {CLOCK_TOLERANCE_S:.0f} s of Stripe's")


async def check_prices(gateway: StripeGateway, catalogue: Catalogue, as_in_stripe: bool = False) -> Check:
    """Whether Stripe has every price of the plans file, with the same amount and interval."""
    try:
        listed = await gateway.account.list_prices(catalogue.lookup_keys)
        listed_before = await gateway.account.list_prices(catalogue.lookup_keys, active=False)
    except StripeError as error:
        return _not_checked("prices", error)
    found = {price.lookup_key: price for price in listed}
    wanted = {price.lookup_key: price for plan in catalogue.plans for price in plan.prices}
    missing = [key for key in wanted if key not in found]
    if missing:
        archived = {price.lookup_key for price in listed_before}
        names = [f"{key} (archived)" if key in archived else key for key in missing]
        return fail("prices", f"Stripe has no price {', '.join(names)}", "run `paidup stripe-setup`")
    unsupported = [f"{price.lookup_key}: {price.unsupported}" for price in listed if price.unsupported]
    if unsupported:
        recommendation = "move the lookup key to a price with one amount for each unit, by month or year"
        return fail("prices", f"not supported: {'; '.join(unsupported)}", recommendation)
    if differing := differences(catalogue, listed):
        text = "; ".join(f"{key}: {wanted[key]} in the file, {found[key]} in Stripe" for key in differing)
        sold = as_in_stripe and all(found[key].interval is wanted[key].interval for key in differing)
        return _judge_differing(text, sold)
    return ok("prices", f"{len(wanted)} lookup keys, with the amounts and intervals of the file")


def _judge_differing(text: str, sold: bool) -> Check:
    if sold:
        return warn("prices", text, "correct the file: PRICE_SOURCE shows and charges Stripe's")
    recommendation = (
        "correct the file, or run `paidup stripe-setup --transfer-lookup-keys`: prices cannot be changed, "
        "and the server does not start"
    )
    return fail("prices", text, recommendation)


async def check_endpoints(gateway: StripeGateway, webhook_url: str | None) -> list[Check]:
    """Whether the webhook endpoint exists in Stripe, is enabled, and has the right events and version."""
    try:
        listed = await gateway.account.list_endpoints()
    except StripeError as error:
        return [_not_checked("endpoint", error)]
    return judge_endpoints(listed, webhook_url)


def judge_endpoints(listed: Sequence[EndpointInfo], webhook_url: str | None) -> list[Check]:
    ours = [found for found in listed if _is_ours(found, webhook_url)]
    if not ours:
        others = ", ".join(found.url for found in listed) or "none"
        recommendation = (
            f"run `paidup stripe-setup --webhook-url {webhook_url or 'https://your.host'}` "
            "(ignore this where `stripe listen` forwards events)"
        )
        return [
            fail(
                "endpoint",
                f"Stripe has no endpoint for {webhook_url or WEBHOOK_PATH} (it has: {others})",
                recommendation,
            )
        ]
    urls = [found.url for found in ours]
    # Two URLs are legitimate, such as staging and production on one account; the same URL twice is not.
    if len(set(urls)) < len(urls):
        duplicate = next(url for url in urls if urls.count(url) > 1)
        url_check = warn(
            "endpoint", f"{duplicate} is registered twice", "delete one: each event arrives twice"
        )
    else:
        url_check = ok("endpoint", ", ".join(urls))
    return [url_check, *(check for found in ours for check in judge_endpoint(found))]


def _is_ours(found: EndpointInfo, webhook_url: str | None) -> bool:
    return found.url == webhook_url if webhook_url else urlsplit(found.url).path.endswith(WEBHOOK_PATH)


def judge_endpoint(found: EndpointInfo) -> list[Check]:
    missing_types = found.lacks(HANDLED_TYPES)
    setup = f"run `paidup stripe-setup --webhook-url {found.url}`"
    version = found.api_version or "the account's default version"
    recreate = f"delete it in Stripe, then {setup}; its version cannot be changed"
    return [
        ok("endpoint state", f"{found.id} is enabled")
        if found.enabled
        else fail("endpoint state", f"{found.id} is {found.status}: no events are delivered", setup),
        fail("endpoint events", f"{found.id} lacks {', '.join(missing_types)}", setup)
        if missing_types
        else ok("endpoint events", f"{found.id} has all {len(HANDLED_TYPES)} event types"),
        ok("endpoint version", f"{version}, the SDK's version")
        if found.api_version == API_VERSION
        else warn(
            "endpoint version",
            f"{version}; the SDK uses {API_VERSION}. Events of other versions cost one extra API call each",
            recreate,
        ),
    ]


def _not_checked(name: str, error: StripeError) -> Check:
    return warn(name, f"not checked: {error}", "allow a restricted key to read it, or try again")
