"""Presents stored objects in answers: copies them and applies `expand`. Never changes the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paidup_demo.sandbox.errors import Json, ParameterError
from paidup_demo.sandbox.objects import list_of
from paidup_demo.sandbox.state import Store, copied

EMBEDDED_LINES = 10
MAX_DEPTH = 4
_TABLE_OF_PREFIX = {
    "cus": "customer", "prod": "product", "price": "price", "pm": "payment_method", "sub": "subscription",
    "in": "invoice", "inpay": "invoice_payment", "pi": "payment_intent", "seti": "setup_intent",
    "ch": "charge", "re": "refund", "du": "dispute", "di": "discount",
    "cn": "credit_note", "ii": "invoiceitem",
    "cs": "checkout.session", "promo": "promotion_code", "plink": "payment_link",
}  # fmt: skip
# Names of ids that Stripe does not expand.
_PLAIN = {"id", "url", "client_secret", "subscription_item", "invoice_item"}


def present(stored: Json) -> Json:
    """A copy of a stored object without expansions."""
    shown: Json = copied(stored)
    if shown["object"] == "invoice":
        lines = shown["lines"]
        lines["has_more"] = len(lines["data"]) > EMBEDDED_LINES
        lines["data"] = lines["data"][:EMBEDDED_LINES]
    return shown


def expand(store: Store, shown: Json, paths: Sequence[str]) -> Json:
    """`shown` with each dotted path filled in; raises Stripe's error for one that cannot be expanded."""
    for path in paths:
        steps = path.split(".")
        if len(steps) > MAX_DEPTH:  # `data` counts, too: https://github.com/stripe/stripe-java/issues/2011
            raise ParameterError("You cannot expand more than 4 levels of a property.", param="expand")
        _fill(store, shown, steps, path)
    return shown


def _fill(store: Store, holder: Any, steps: list[str], path: str) -> None:
    if isinstance(holder, list):
        for item in holder:
            _fill(store, item, steps, path)
        return
    if not isinstance(holder, dict):
        return
    step, rest = steps[0], steps[1:]
    if step not in holder:
        holder[step] = _included(store, holder, step, path)
    holder[step] = _resolved(store, step, holder[step], path)
    if rest:
        _fill(store, holder[step], rest, path)


def _resolved(store: Store, step: str, value: Any, path: str) -> Any:
    if isinstance(value, list):
        return [_resolved(store, step, item, path) for item in value]
    if not isinstance(value, str):
        return value
    # These ids may be chosen when the object is created.
    table = step if step in ("coupon", "product") else _TABLE_OF_PREFIX.get(value.split("_", 1)[0])
    if table is None or step in _PLAIN:
        raise _unexpandable(path)
    row = store.find(table, value)
    return value if row is None else present(row)


def _included(store: Store, holder: Json, step: str, path: str) -> Any:
    """Properties that Stripe only includes on request."""
    match holder.get("object"), step:
        case "invoice", "payments":
            payments = [present(row) for row in store.linked(holder["id"], "invoice_payment")]
            return list_of(payments, f"/v1/invoice_payments?invoice={holder['id']}")
        case "invoice", "confirmation_secret":
            return confirmation_secret(store, holder["id"])
        case "charge", "refunds":
            refunds = [present(row) for row in store.newest("refund", charge=holder["id"])]
            return list_of(refunds, f"/v1/charges/{holder['id']}/refunds")
        case "customer", "subscriptions":
            owned = store.newest("subscription", customer=holder["id"])
            return list_of([present(row) for row in owned], f"/v1/customers/{holder['id']}/subscriptions")
        case "checkout.session" | "payment_link" as kind, "line_items":
            lines = copied(store.note(holder["id"])["lines"])
            shown = lines[:EMBEDDED_LINES]
            owner = "checkout/sessions" if kind == "checkout.session" else "payment_links"
            url = f"/v1/{owner}/{holder['id']}/line_items"
            return list_of(shown, url, len(lines) > EMBEDDED_LINES)
        case "price", "currency_options":
            return currency_options(store, holder)
    raise _unexpandable(path)


def currency_options(store: Store, price: Json) -> Json:
    """The price in each currency that it has, its own first: https://docs.stripe.com/api/prices/object."""
    amounts = {price["currency"]: price["unit_amount"]} | store.note(price["id"]).get("currency_options", {})
    return {
        currency: {
            "custom_unit_amount": None,
            "tax_behavior": price["tax_behavior"],
            "unit_amount": amount,
            "unit_amount_decimal": str(amount),
        }
        for currency, amount in amounts.items()
    }


def confirmation_secret(store: Store, invoice_id: str) -> Json | None:
    """The client secret of the pending default payment."""
    for payment in store.linked(invoice_id, "invoice_payment"):
        if payment["status"] != "canceled":
            intent = store.get("payment_intent", payment["payment"]["payment_intent"])
            return {"client_secret": intent["client_secret"], "type": "payment_intent"}
    return None


def _unexpandable(path: str) -> ParameterError:
    return ParameterError(
        f"This property cannot be expanded ({path}). (This sandbox implements only a part of Stripe.)",
        param="expand",
    )
