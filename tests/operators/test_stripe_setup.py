"""`paidup stripe-setup`: creates missing objects in Stripe, once."""

from __future__ import annotations

from typing import Any

import pytest

from paidup.db.models import StripeEvent
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import InvalidInput
from paidup.operations import price_setup
from paidup.operations.price_setup import ensure_prices
from paidup.operations.stripe_setup import ensure_endpoint, open_gateway_only, webhook_address
from paidup.operations.webhook_probe import endpoint_notes
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.client import API_VERSION
from tests.conftest import World
from tests.support.paidup import WEBHOOK_SECRET, settings
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


async def test_the_webhook_address_is_checked_by_a_signed_probe(world: World) -> None:
    """It is taken as typed. Whatever keeps webhooks from arriving is one line with the remedy."""
    paidup = await world.server()
    address = f"{paidup.url}/webhooks/stripe"
    assert await endpoint_notes(address, WEBHOOK_SECRET, False) == []
    assert await StripeEvent.all().count() == 0, "the probe is not stored"
    (other,) = await endpoint_notes(address, "whsec_of_another_endpoint_0123456789abcdef", False)
    assert "another STRIPE_WEBHOOK_SECRET" in other
    (mode,) = await endpoint_notes(address, WEBHOOK_SECRET, True)
    assert "the other mode" in mode
    path, answer = await endpoint_notes(f"{address}/", WEBHOOK_SECRET, False)
    assert path.startswith("the path is not Paidup's, which is /webhooks/stripe")
    assert answer.startswith("it answers 404, and Paidup would answer 200")
    (away,) = await endpoint_notes("http://127.0.0.1:1/webhooks/stripe", WEBHOOK_SECRET, False)
    assert away.startswith("it does not answer (")


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


async def prices_at(stripe_side: StripeSide, key: str) -> list[Any]:
    return list((await stripe_side.api("GET", f"prices?lookup_keys[0]={key}"))["data"])


async def test_a_plan_has_one_product_that_names_it(given: Any, stripe_side: StripeSide) -> None:
    """Its prices share it, however often the set-up runs."""
    await stripe_side.control("reset")
    async with open_gateway_only(given) as gateway:
        for state in ("created", "exists"):
            done = await ensure_prices(gateway, parse_catalogue(PACKAGED_PLANS.read_bytes()))
            assert {each.state for each in done} == {state}
    products = (await stripe_side.api("GET", "products?limit=100"))["data"]
    assert {product["metadata"]["paidup_plan"] for product in products} == {
        "basic",
        "advanced",
        "pro",
        "extra",
    }
    assert len(products) == 4
    keys = ("paidup_pro_monthly", "paidup_pro_yearly")
    assert len({(await prices_at(stripe_side, key))[0]["product"] for key in keys}) == 1


async def test_a_product_from_before_gets_its_plans_name(given: Any, stripe_side: StripeSide) -> None:
    """So that its old prices can be told from those of other products."""
    (price,) = await prices_at(stripe_side, "paidup_pro_monthly")
    async with open_gateway_only(given) as gateway:
        await ensure_prices(gateway, parse_catalogue(PACKAGED_PLANS.read_bytes()))
    product = await stripe_side.api("GET", f"products/{price['product']}")
    assert product["metadata"] == {"paidup_plan": "pro"}


async def test_the_lookup_key_of_an_archived_price_moves_to_a_new_one(
    given: Any, stripe_side: StripeSide
) -> None:
    """S51: also within the day in which Stripe would repeat its answer to the first call."""
    catalogue = parse_catalogue(PACKAGED_PLANS.read_bytes())
    await stripe_side.control("reset")
    async with open_gateway_only(given) as gateway:
        await ensure_prices(gateway, catalogue)
        (old,) = await prices_at(stripe_side, "paidup_pro_monthly")
        await stripe_side.api("POST", f"prices/{old['id']}", active="false")
        done = {each.lookup_key: each for each in await ensure_prices(gateway, catalogue)}
        assert done["paidup_pro_monthly"].state == "transferred"
        (new,) = await prices_at(stripe_side, "paidup_pro_monthly")
        assert (new["id"], new["active"]) == (done["paidup_pro_monthly"].price, True)
        assert (new["id"] != old["id"], new["product"]) == (True, old["product"])
        await stripe_side.api("POST", f"prices/{new['id']}", active="false", lookup_key="")
        done = {each.lookup_key: each for each in await ensure_prices(gateway, catalogue)}
        (newest,) = await prices_at(stripe_side, "paidup_pro_monthly")
        assert (done["paidup_pro_monthly"].state, newest["active"]) == ("created", True)
        assert newest["id"] == done["paidup_pro_monthly"].price


async def test_a_replay_is_reported_as_one(given: Any, stripe_side: StripeSide) -> None:
    """Two set-ups at once: both list no price, and Stripe makes one."""
    catalogue = parse_catalogue(PACKAGED_PLANS.read_bytes())
    plan = catalogue.plans[0]
    await stripe_side.control("reset")
    async with open_gateway_only(given) as gateway:
        product = await gateway.price_writer.create_product(plan)
        made = await gateway.price_writer.create_price(product, plan.prices[0], None)
        assert not made.replayed
        done = await price_setup._create(gateway, product, plan.prices[0], None)
    assert (done.state, done.price) == ("replayed", made.id)


async def test_a_different_price_is_replaced_on_request(given: Any, stripe_side: StripeSide) -> None:
    """`--transfer-lookup-keys`: new customers pay the new amount, and the old price keeps renewing."""
    dearer = PACKAGED_PLANS.read_text().replace("amount_minor = 2900\n", "amount_minor = 3900\n")
    (old,) = await prices_at(stripe_side, "paidup_pro_monthly")
    async with open_gateway_only(given) as gateway:
        done = await ensure_prices(gateway, parse_catalogue(dearer.encode()), transfer=True)
    assert [each.lookup_key for each in done if each.state == "transferred"] == ["paidup_pro_monthly"]
    (new,) = await prices_at(stripe_side, "paidup_pro_monthly")
    assert (new["unit_amount"], new["product"]) == (3900, old["product"])
    assert (await stripe_side.api("GET", f"prices/{old['id']}"))["active"]
