"""Finds a PaymentMethod by its id, or makes one: of a card (cards.py) or a bank account (bank_methods.py)."""

from __future__ import annotations

from paidup_demo.sandbox import bank_methods, cards
from paidup_demo.sandbox.errors import InvalidRequestError, Json, ParameterError
from paidup_demo.sandbox.state import Store


def method_from(store: Store, now: int, data: Json) -> Json:
    """A PaymentMethod from `payment_method_data` or from the parameters of its creation."""
    if data.get("type") not in bank_methods.METHOD_TYPES:
        known = ", ".join(bank_methods.METHOD_TYPES)
        raise ParameterError(
            f"This sandbox only supports the types {known}.", code="parameter_invalid", param="type"
        )
    make = cards.method_from if data["type"] == "card" else bank_methods.method_from
    return make(store, now, data)


def resolve(
    store: Store, now: int, method_id: str, param: str = "payment_method", *, in_path: bool = False
) -> Json:
    """The PaymentMethod of this id; a well-known id (`pm_card_visa`) creates a new one, as at Stripe."""
    made = cards.well_known_method(store, now, method_id) or bank_methods.well_known(store, now, method_id)
    return made or store.get("payment_method", method_id, param, in_path=in_path)


def refuse_other_type(intent: Json, method: Json) -> None:
    """Raise Stripe's error for a method of a type that the intent does not take."""
    kinds, name = intent["payment_method_types"], _NAMES[intent["object"]]
    if method["type"] not in kinds:
        raise InvalidRequestError(
            f"The PaymentMethod provided ({method['type']}) is not allowed for this {name}. Please attach"
            f" a PaymentMethod of one of the following types: {', '.join(kinds)}.",
            param="payment_method",
        )


_NAMES = {"payment_intent": "PaymentIntent", "setup_intent": "SetupIntent"}
