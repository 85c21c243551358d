"""Which currency is charged, and what a price costs in it.

A subscription has one currency: the one asked for, else its first price's own. An invoice or an item has
the one asked for, else its customer's, else the account's default. A price has its own, and those of its
`currency_options`: https://docs.stripe.com/payments/currencies.
"""

from __future__ import annotations

from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.expansion import currency_options
from paidup_demo.sandbox.objects import nulls
from paidup_demo.sandbox.world import World

_WHOLE = frozenset(nulls("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"))
"""https://docs.stripe.com/currencies#zero-decimal"""


def shown_amount(minor: int, currency: str) -> str:
    """An amount for people: 20.00 USD."""
    amount = f"{minor:,}" if currency in _WHOLE else f"{minor / 100:,.2f}"
    return f"{amount} {currency.upper()}"


def default_for(world: World, customer: Json, asked: str | None) -> str:
    """The currency of a new invoice or item of this customer."""
    return (asked or customer["currency"] or world.conditions.default_currency).lower()


def price_in(world: World, price: Json, currency: str, param: str) -> Json:
    """The price with its amount in this currency. Raises Stripe's error where it has none."""
    if price["currency"] == currency:
        return price
    options = currency_options(world.store, price)
    if currency not in options:
        raise InvalidRequestError(_refusal(sorted(options), currency), param=param)
    amounts = {name: options[currency][name] for name in ("unit_amount", "unit_amount_decimal")}
    return price | amounts | {"currency": currency}


def _refusal(supported: list[str], expected: str) -> str:
    names = ", ".join(f"`{each}`" for each in supported)
    if len(supported) == 1:
        return (
            f"The price specified only supports {names}. This doesn't match the expected currency:"
            f" `{expected}`."
        )
    return (
        f"The price specified supports currencies of {names} which doesn't include the expected currency"
        f" of `{expected}`."
    )


def charged(world: World, subscription: Json, item: Json) -> Json:
    """The item as it is charged: with its price's amount in the subscription's currency."""
    price = price_in(world, item["price"], subscription["currency"], "items")
    return item if price is item["price"] else item | {"price": price}


def refuse_another(customer: Json, currency: str) -> None:
    """Raise if the customer is charged in another currency already."""
    if customer["currency"] not in (None, currency):
        raise InvalidRequestError(
            "You cannot combine currencies on a single customer. This customer has had a subscription,"
            f" coupon, or invoice item with currency {customer['currency']}"
        )


PRESENTMENT_RATE = 0.9
"""What the imitated Adaptive Pricing multiplies amounts with."""


def present_in(world: World, *paid: Json) -> None:
    """Adaptive Pricing: show what the customer pays in their own currency; all other amounts stay.

    https://docs.stripe.com/payments/currencies/localize-prices/adaptive-pricing
    """
    currency = world.conditions.presentment_currency
    for each in paid if currency else ():
        charged = each["amount_total"] if each["object"] == "checkout.session" else each["amount"]
        amount = round(charged * PRESENTMENT_RATE)
        each["presentment_details"] = {"presentment_amount": amount, "presentment_currency": currency}
