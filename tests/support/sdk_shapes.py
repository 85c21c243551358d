"""Stripe's objects held against the types of the installed SDK: fields, kinds of value, and enums.

The SDK's resource classes are generated from Stripe's OpenAPI description at the version that the SDK pins: a
field that may not be null or absent has no Optional, an enum is a Literal, a nested object a class.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from functools import cache
from types import NoneType
from typing import Any, ForwardRef, Literal

import stripe
from stripe._object_classes import get_object_class

Json = dict[str, Any]

NEVER_NULL: dict[str, tuple[str, ...]] = {
    "charge": ("presentment_details", "radar_options", "transfer"),
    "customer": (
        *("balance", "business_name", "individual_name", "invoice_credit_balance", "invoice_settings"),
        *("metadata", "next_invoice_sequence", "sources", "subscriptions", "tax", "tax_ids"),
    ),
    "dispute": ("payment_method_details",),
    "event": ("account", "context"),
    "invoice": ("payments", "threshold_reason"),
    "payment_intent": (
        *("amount_capturable", "amount_details", "amount_received", "hooks", "metadata"),
        *("payment_details", "presentment_details"),
    ),
    "price": ("currency_options", "tiers"),
    "refund": (
        *("description", "destination_details", "failure_balance_transaction", "failure_reason"),
        *("instructions_email", "next_action", "pending_reason", "presentment_details"),
    ),
    "setup_intent": ("attach_to_self",),
    "subscription": ("presentment_details",),
    "subscription_item": ("billed_until", "quantity"),
    "webhook_endpoint": ("secret",),
}
"""What may be absent but not null: the one fact that the SDK's types do not tell. From Stripe's OpenAPI
description at 2026-08-26.dahlia (https://github.com/stripe/openapi, MIT licence)."""


def problems(served: Any) -> list[str]:
    """Everything in which this object of Stripe's differs from the SDK's types; empty when it does not."""
    cls = get_object_class("V1", served["object"])
    if cls is stripe.StripeObject:
        return [f"{served['object']}: no object of Stripe's"]
    return sorted(_object(cls, served, served["object"]))


@cache
def fields(cls: Any) -> dict[str, Any]:
    """The annotations of a class of the SDK, under the names that JSON has."""
    renamed = {new: old for old, new in getattr(cls, "_field_remappings", {}).items()}
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is not stripe.StripeObject and issubclass(base, stripe.StripeObject):
            own = inspect.get_annotations(base)
            found |= {renamed.get(name, name): kind for name, kind in own.items() if name[0] != "_"}
    return {name: kind for name, kind in found.items() if typing.get_origin(kind) is not typing.ClassVar}


def members(kind: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself. A name is a reference."""
    if isinstance(kind, str):
        return (ForwardRef(kind),)
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)


def words(kind: Any) -> frozenset[Any]:
    """The values of an enum: those of every Literal in the annotation."""
    return frozenset(
        word
        for member in members(kind)
        if typing.get_origin(member) is Literal
        for word in typing.get_args(member)
    )


def _object(cls: Any, served: Json, where: str) -> Iterator[str]:
    known = fields(cls)
    for name in sorted(served.keys() - known):
        yield f"{where}.{name}: a field that Stripe does not have"
    never_null = NEVER_NULL.get(str(served.get("object")), ())
    for name, kind in known.items():
        inside = f"{where}.{name}"
        if name in served:
            if served[name] is None and name in never_null:
                yield f"{inside}: null, where Stripe leaves it out"
            yield from _value(kind, served[name], inside)
        elif NoneType not in members(kind):
            yield f"{inside}: missing"


def _value(kind: Any, value: Any, where: str) -> Iterator[str]:
    """What is wrong with a value of this annotation."""
    if kind is Any:
        return
    options = members(kind)
    if value is None:
        if NoneType not in options:
            yield f"{where}: null"
    elif isinstance(value, dict):
        yield from _nested(options, value, where)
    elif isinstance(value, list):
        lists = [option for option in options if typing.get_origin(option) is list]
        if not lists:
            yield f"{where}: a list"
        for index, item in enumerate(value if lists else []):
            yield from _value(typing.get_args(lists[0])[0], item, f"{where}[{index}]")
    elif words(kind):
        if value not in words(kind):
            yield f"{where}: {value!r} is none of {sorted(map(str, words(kind)))}"
    elif not any(_is(option, value) for option in options):
        yield f"{where}: {value!r} is no {kind}"


def _is(option: Any, value: Any) -> bool:
    if option is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if getattr(option, "__name__", "") == "Decimal":  # a decimal is a string in JSON
        return isinstance(value, str)
    return type(value) is option


def _nested(options: tuple[Any, ...], value: Json, where: str) -> Iterator[str]:
    for option in options:
        origin = typing.get_origin(option) or option
        if isinstance(option, ForwardRef):
            if _named(option, value):
                yield from _object(get_object_class("V1", value["object"]), value, where)
                return
        elif origin is stripe.ListObject:
            yield from _list(option, value, where)
            return
        elif getattr(origin, "__name__", "") in ("UntypedStripeObject", "dict"):
            (*_, inner) = typing.get_args(option)
            for name, item in value.items():
                yield from _value(inner, item, f"{where}.{name}")
            return
        elif isinstance(origin, type) and issubclass(origin, stripe.StripeObject):
            yield from _object(origin, value, where)
            return
    yield f"{where}: an object where there is none of Stripe's ({value.get('object', sorted(value))})"


def _named(option: ForwardRef, value: Json) -> bool:
    """Whether the reference names the class of this object; some are imported as `CardResource`."""
    name = get_object_class("V1", str(value.get("object"))).__name__
    return option.__forward_arg__ in (name, f"{name}Resource")


def _list(option: Any, value: Json, where: str) -> Iterator[str]:
    if value.get("object") != "list" or not {"data", "has_more", "url"} <= value.keys():
        yield f"{where}: no list of Stripe's"
        return
    (inner,) = typing.get_args(option)
    for index, item in enumerate(value["data"]):
        yield from _value(inner, item, f"{where}.data[{index}]")
