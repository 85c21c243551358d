"""The line items of Checkout Sessions and Payment Links: which prices they take, and what these cost."""

from __future__ import annotations

from paidup_demo.sandbox import currencies
from paidup_demo.sandbox.checkout_quantities import adjustable
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.forms import require
from paidup_demo.sandbox.objects import catalogue
from paidup_demo.sandbox.objects import checkout as objects
from paidup_demo.sandbox.prorations import rhythm
from paidup_demo.sandbox.world import World

MAX_LINES = {"payment": 100, "subscription": 20}


def priced_lines(world: World, params: Json, customer: Json | None) -> tuple[str, list[Json]]:
    """The currency, and the line items before discounts."""
    mode, wanted = params["mode"], params["line_items"]
    prices = [_price(world, mode, item, position) for position, item in enumerate(wanted)]
    recurring = [price for price in prices if price["recurring"]]
    if mode == "subscription":
        _refuse_mixture(recurring)
    for counted in (recurring, [price for price in prices if not price["recurring"]]):
        if len(counted) > MAX_LINES[mode]:
            raise InvalidRequestError(
                f"You can only have up to {MAX_LINES[mode]} of these line items.", param="line_items"
            )
    currency = (params.get("currency") or prices[0]["currency"]).lower()
    if customer is not None and mode == "subscription":
        currencies.refuse_another(customer, currency)
    on_trial = bool(params.get("subscription_data", {}).get("trial_period_days"))
    made = []
    for position, (item, price) in enumerate(zip(wanted, prices, strict=True)):
        priced = currencies.price_in(world, price, currency, f"line_items[{position}][price]")
        name = str(world.store.get("product", price["product"])["name"])
        waits = on_trial and price["recurring"]
        subtotal = 0 if waits else priced["unit_amount"] * item["quantity"]
        line = objects.checkout_line(priced, name, item["quantity"], subtotal)
        line["adjustable_quantity"] = adjustable(item, f"line_items[{position}]")
        made.append(line | {"metadata": item.get("metadata", {})})
    return currency, made


def _price(world: World, mode: str, item: Json, position: int) -> Json:
    """The price of one line item, if it can be bought in this mode."""
    param = f"line_items[{position}]"
    if item.get("price_data"):
        item["price"] = _inline(world, item["price_data"])["id"]
    elif not item.get("price"):
        raise InvalidRequestError(
            f"Missing required param: {param}[price].", code="parameter_missing", param=f"{param}[price]"
        )
    price = world.store.get("price", item["price"], f"{param}[price]")
    if not price["active"] and not item.get("price_data"):
        raise InvalidRequestError(
            "The price specified is inactive. This field only accepts active prices.", param=f"{param}[price]"
        )
    if mode == "payment" and price["recurring"]:
        raise InvalidRequestError(
            "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode"
            " or use only one-time prices."
        )
    if not item.get("quantity"):
        raise InvalidRequestError(f"Quantity is required. Add `quantity` to `{param}`")
    return price


def _inline(world: World, data: Json) -> Json:
    """A price for this session alone, which is never active: its `price_data` in the SDK's parameters."""
    require(data, "currency", "unit_amount")
    if data.get("product_data"):
        require(data["product_data"], "name")
        made = catalogue.product(world.now(), data["product_data"]["name"]) | data["product_data"]
        product = world.store.add(made)
        world.events.record("product.created", product)
    else:
        require(data, "product")
        product = world.store.get("product", data["product"], "product")
    price = catalogue.price(
        world.now(),
        product=product["id"],
        currency=data["currency"].lower(),
        unit_amount=data["unit_amount"],
        recurring=data.get("recurring"),
    )
    price["active"] = False
    world.events.record("price.created", world.store.add(price))
    return price


def _refuse_mixture(recurring: list[Json]) -> None:
    if not recurring:
        raise InvalidRequestError(
            "You must provide at least one recurring price in `subscription` mode when using prices."
        )
    if len({rhythm(price) for price in recurring}) > 1:
        raise InvalidRequestError(
            "Checkout does not support multiple prices with different billing intervals."
        )
    if any(price["recurring"]["usage_type"] != "licensed" for price in recurring):
        raise InvalidRequestError("This sandbox does not imitate metered prices on subscriptions.")
