"""The price that is shown is the price that is charged: plans.toml and Stripe must not differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paidup.app import create_app
from paidup.errors import ConfigurationError
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.paidup import Paidup, settings

CHEAPER_IN_THE_FILE = 1900


@pytest.fixture
def cheaper_plans(tmp_path: Path) -> Path:
    """The packaged plans, where Pro costs 19.00 and not 29.00 as in Stripe."""
    path = tmp_path / "cheaper.toml"
    path.write_text(PACKAGED_PLANS.read_text().replace("amount_minor = 2900\n", "amount_minor = 1900\n"))
    return path


async def shown(paidup: Paidup, plan_id: str = "pro") -> dict[str, int]:
    """What the page shows for a plan: each price's amount, by its lookup key."""
    status, answer = await paidup.get("/api/plans")
    assert status == 200, answer
    (plan,) = (plan for plan in answer["plans"] if plan["id"] == plan_id)
    return {price["lookup_key"]: price["amount_minor"] for price in plan["prices"]}


async def invoices(world: World) -> list[Any]:
    return list((await world.stripe_side.api("GET", "invoices?limit=10"))["data"])


async def test_a_server_does_not_start_with_prices_that_differ(world: World, cheaper_plans: Path) -> None:
    """The one line names both prices and what to do."""
    app = create_app(settings(**world.given(plans_file=cheaper_plans)))
    with pytest.raises(ConfigurationError) as refused:
        async with app.router.lifespan_context(app):
            pass
    (problem,) = refused.value.problems
    words = (
        "paidup_pro_monthly",
        "1900 usd month",
        "2900 usd month",
        "--transfer-lookup-keys",
        "PRICE_SOURCE",
    )
    assert [word for word in words if word not in problem] == []


async def test_nothing_is_sold_at_a_price_that_was_not_shown(world: World, cheaper_plans: Path) -> None:
    """Stripe was away when the server started: the difference is found by the first purchase."""
    await world.stripe_side.conditions(api_down=True)
    paidup = await world.server(plans_file=cheaper_plans)
    await world.stripe_side.conditions(api_down=False)
    ada = paidup.customer()
    assert await shown(paidup) == {"paidup_pro_monthly": 1900, "paidup_pro_yearly": 29000}
    status, answer = await ada.call("POST", "/api/subscriptions", {"plan": "pro"})
    assert (status, answer["type"].rpartition("/")[2]) == (503, "not-configured"), answer
    assert await invoices(world) == []
    status, _ = await ada.call("POST", "/api/subscriptions", {"plan": "basic"})
    assert status == 201


async def test_stripes_prices_are_shown_by_a_setting(world: World, cheaper_plans: Path) -> None:
    paidup = await world.server(plans_file=cheaper_plans, price_source="stripe")
    assert await shown(paidup) == {"paidup_pro_monthly": 2900, "paidup_pro_yearly": 29000}
    await paidup.customer().buy("pro")
    (invoice,) = await invoices(world)
    assert invoice["amount_due"] == 2900


async def test_stripes_prices_are_not_guessed_while_stripe_is_away(world: World, cheaper_plans: Path) -> None:
    await world.stripe_side.conditions(api_down=True)
    paidup = await world.server(plans_file=cheaper_plans, price_source="stripe")
    status, answer = await paidup.get("/api/plans")
    assert (status, answer["type"].rpartition("/")[2]) == (503, "stripe-unavailable")
    await world.stripe_side.conditions(api_down=False)
    assert (await shown(paidup))["paidup_pro_monthly"] == 2900


async def test_a_price_that_stripe_does_not_have_is_not_shown(world: World, cheaper_plans: Path) -> None:
    """With Stripe's prices: nobody could buy it."""
    (price,) = (await world.stripe_side.api("GET", "prices?lookup_keys[0]=paidup_pro_yearly"))["data"]
    await world.stripe_side.api("POST", f"prices/{price['id']}", active="false")
    paidup = await world.server(plans_file=cheaper_plans, price_source="stripe")
    assert await shown(paidup) == {"paidup_pro_monthly": 2900}


async def test_a_difference_that_was_corrected_is_found_without_a_restart(
    world: World, cheaper_plans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as Stripe's prices are read again."""
    monkeypatch.setattr("paidup.stripe_api.prices.REFRESH_AT_MOST_EVERY_S", 0.0)
    await world.stripe_side.conditions(api_down=True)
    paidup = await world.server(plans_file=cheaper_plans)
    await world.stripe_side.conditions(api_down=False)
    ada = paidup.customer()
    assert (await ada.call("POST", "/api/subscriptions", {"plan": "pro"}))[0] == 503
    (old,) = (await world.stripe_side.api("GET", "prices?lookup_keys[0]=paidup_pro_monthly"))["data"]
    form = {
        "currency": "usd",
        "unit_amount": "1900",
        "recurring[interval]": "month",
        "product": old["product"],
    }
    await world.stripe_side.api(
        "POST", "prices", lookup_key="paidup_pro_monthly", transfer_lookup_key="true", **form
    )
    await ada.buy("pro")
    (invoice,) = await invoices(world)
    assert invoice["amount_due"] == CHEAPER_IN_THE_FILE
