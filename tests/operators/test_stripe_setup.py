"""`paidup stripe-setup`: creates missing objects in Stripe, once."""

from __future__ import annotations

from typing import Any

import pytest

from paidup.domain.catalog import parse_catalogue
from paidup.errors import InvalidInput
from paidup.operations.stripe_setup import ensure_endpoint, ensure_prices, open_gateway_only, webhook_address
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.client import API_VERSION
from tests.support.paidup import settings
from tests.support.stripe_sandbox import StripeSide

URL = "https://paidup.example/webhooks/stripe"


@pytest.fixture
def given(stripe_side: StripeSide, valkey: str) -> Any:
    return settings(stripe_api_base=stripe_side.url, redis_url=valkey)


async def endpoints(stripe_side: StripeSide) -> list[Any]:
    listed = await stripe_side.api("GET", "webhook_endpoints?limit=100")
    return list(listed["data"])


async def test_running_twice_creates_one_endpoint(given: Any, stripe_side: StripeSide) -> None:
    """With the SDK's version and the handled event types; the secret is returned at creation only."""
    async with open_gateway_only(given) as gateway:
        made = await ensure_endpoint(gateway, "https://paidup.example")
        again = await ensure_endpoint(gateway, URL)
    assert (made.state, made.url, made.same_version) == ("created", URL, True)
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    assert (again.state, again.id, again.secret) == ("exists", made.id, None)
    (only,) = await endpoints(stripe_side)
    assert only["api_version"] == API_VERSION
    assert set(only["enabled_events"]) == set(HANDLED_TYPES)


async def test_an_incomplete_endpoint_is_updated(given: Any, stripe_side: StripeSide) -> None:
    """It is enabled and gets the missing event types; other event types and the version are kept."""
    form = {"enabled_events[0]": "product.created", "enabled_events[1]": "invoice.paid"}
    made = await stripe_side.api("POST", "webhook_endpoints", url=URL, **form)
    await stripe_side.api("POST", f"webhook_endpoints/{made['id']}", disabled="true")
    async with open_gateway_only(given) as gateway:
        done = await ensure_endpoint(gateway, URL)
        assert (done.state, done.id, done.same_version) == ("updated", made["id"], False)
        assert (await ensure_endpoint(gateway, URL)).state == "exists"
    (only,) = await endpoints(stripe_side)
    assert only["status"] == "enabled"
    assert set(only["enabled_events"]) == {"product.created", *HANDLED_TYPES}


async def test_an_endpoint_at_another_url_is_not_changed(given: Any, stripe_side: StripeSide) -> None:
    form = {"enabled_events[0]": "charge.failed", "url": "https://other.example/hooks"}
    other = await stripe_side.api("POST", "webhook_endpoints", **form)
    async with open_gateway_only(given) as gateway:
        await ensure_endpoint(gateway, URL)
    kept = next(found for found in await endpoints(stripe_side) if found["id"] == other["id"])
    assert kept["enabled_events"] == ["charge.failed"]


@pytest.mark.parametrize(
    "url", ["", "paidup.example", "ftp://paidup.example", "https://", "/webhooks/stripe"]
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        webhook_address(url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://paidup.example/", URL),
        ("https://paidup.example:8443", "https://paidup.example:8443/webhooks/stripe"),
        ("https://paidup.example/billing/hooks", "https://paidup.example/billing/hooks"),
    ],
)
def test_a_bare_host_gets_the_webhook_path(url: str, address: str) -> None:
    assert webhook_address(url) == address


async def test_prices_are_created_once_and_a_different_one_is_reported(given: Any) -> None:
    text = PACKAGED_PLANS.read_text().replace("paidup_pro_monthly", "pro_2027").encode()
    async with open_gateway_only(given) as gateway:
        made = {done.lookup_key: done.state for done in await ensure_prices(gateway, parse_catalogue(text))}
        assert made.pop("pro_2027") == "created"
        assert set(made.values()) == {"exists"}
        dearer = text.replace(b"amount_minor = 2900\n", b"amount_minor = 3900\n")
        by_the_year = dearer.replace(b'interval = "once"', b'interval = "year"')
        done = await ensure_prices(gateway, parse_catalogue(by_the_year))
        assert {each.lookup_key for each in done if each.state == "differs"} == {"pro_2027", "paidup_extra"}
