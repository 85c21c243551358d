"""Stripe's bracketed forms: decoding, and checking against what a call accepts.

Decodes `items[0][price]=p`, `expand[]=a`, `metadata[k]=v`, `created[gte]=1` and, like Stripe, rejects unknown
parameters. It does not check whether `p` exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from paidup_demo.sandbox.errors import Json, ParameterError, parameter_missing

MAX_FIELDS = 1000
_KEY = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Kind:
    """A type of value: `convert` raises ValueError with the reason."""

    convert: Callable[[Any], Any]


Spec: TypeAlias = "Kind | Mapping[str, Spec] | list[Spec]"
Shape: TypeAlias = Mapping[str, Spec]


def decode(text: str) -> Json:
    """A form or query string as nested dicts and lists. Values stay strings."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except (ValueError, UnicodeDecodeError) as error:
        raise ParameterError("Invalid request: the form could not be read.") from error
    tree: Json = {}
    for key, value in pairs:
        _place(tree, _path(key), value)
    return {key: _listed(value) for key, value in tree.items()}


def _path(key: str) -> list[str]:
    found = _KEY.match(key)
    if not found:
        raise ParameterError(f"Invalid parameter name: {key[:80]!r}", param=key[:80])
    return [found[1], *_BRACKET.findall(found[2])]


def _place(tree: Json, path: list[str], value: str) -> None:
    for step in path[:-1]:
        tree = tree.setdefault(step or str(len(tree)), {})
        if not isinstance(tree, dict):
            raise ParameterError(f"Invalid object: {step}", param=path[0])
    tree[path[-1] or str(len(tree))] = value


def _listed(value: Any) -> Any:
    """Convert dicts with only numeric keys to lists."""
    if not isinstance(value, dict):
        return value
    if value and all(key.isdecimal() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(inner) for key, inner in value.items()}


def check(params: Mapping[str, Any], shape: Shape, prefix: str = "") -> Json:
    """Convert the parameters to their types; raises for unknown ones."""
    unknown = [key for key in params if key not in shape]
    if unknown:
        raise _unknown(unknown, shape, prefix)
    return {key: _convert(value, shape[key], _name(prefix, key)) for key, value in params.items()}


def _name(prefix: str, key: object) -> str:
    return f"{prefix}[{key}]" if prefix else str(key)


def _unknown(keys: Iterable[str], shape: Shape, prefix: str) -> ParameterError:
    names = ", ".join(_name(prefix, key) for key in keys)
    known = ", ".join(sorted(shape)) or "none"
    return ParameterError(
        f"Received unknown parameter: {names}. (This sandbox implements only a part of Stripe; here it"
        f" knows: {known}.)",
        code="parameter_unknown",
        param=names,
    )


def _convert(value: Any, spec: Spec, name: str) -> Any:
    if isinstance(spec, Kind):
        try:
            return spec.convert(value)
        except ValueError as error:
            raise ParameterError(f"Invalid {name}: {error}", code="parameter_invalid", param=name) from error
    if value == "":
        return [] if isinstance(spec, list) else {}
    if isinstance(spec, list):
        if not isinstance(value, list):
            raise ParameterError("Invalid array", param=name)
        return [_convert(item, spec[0], _name(name, i)) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        raise ParameterError("Invalid object", param=name)
    return check(value, spec, name)


def require(params: Mapping[str, Any], *names: str) -> None:
    """Raise if one of these is missing or empty."""
    for name in names:
        if params.get(name) in (None, "", [], {}):
            raise parameter_missing(name)


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if len(value) > 5000:
        raise ValueError("must be at most 5000 characters")
    return value or None


def _integer(value: Any) -> int | None:
    if value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,15}", value):
        raise ValueError("must be an integer")
    return int(value)


def _number(value: Any) -> float | None:
    if value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,9}(\.\d{1,4})?", value):
        raise ValueError("must be a number")
    return float(value)


def _boolean(value: Any) -> bool:
    words = {"true": True, "True": True, "false": False, "False": False}
    if not isinstance(value, str) or value not in words:
        raise ValueError("must be true or false")
    return words[value]


def _metadata(value: Any) -> dict[str, str]:
    pairs = {str(i): v for i, v in enumerate(value)} if isinstance(value, list) else value
    if value == "":
        return {}
    if not isinstance(pairs, dict) or not all(isinstance(v, str) for v in pairs.values()):
        raise ValueError("must be a hash of strings")
    if len(pairs) > 50 or any(len(k) > 40 or len(v) > 500 for k, v in pairs.items()):
        raise ValueError("at most 50 keys of 40 characters, values of 500")
    return dict(pairs)


def _currency_options(value: Any) -> dict[str, int]:
    """Currency and unit amount: the part of Stripe's `currency_options` that is imitated."""
    if not isinstance(value, dict):
        raise ValueError("must be a hash of currencies")
    options = {}
    for currency, option in value.items():
        if not re.fullmatch("[a-z]{3}", currency):
            raise ValueError(f"{currency!r} is not a currency")
        if not isinstance(option, dict) or option.keys() != {"unit_amount"}:
            raise ValueError("this sandbox knows a currency's unit_amount only")
        options[currency] = _integer(option["unit_amount"]) or 0
    return options


def _time_range(value: Any) -> dict[str, int]:
    wanted = {"gte": value, "lte": value} if isinstance(value, str) else value
    if not isinstance(wanted, dict) or not wanted or not wanted.keys() <= {"gt", "gte", "lt", "lte"}:
        raise ValueError("must be a timestamp or a hash of gt, gte, lt, lte")
    return {key: _integer(moment) or 0 for key, moment in wanted.items()}


def choice(*words: str) -> Kind:
    """One of these values; empty unsets."""

    def convert(value: Any) -> str | None:
        if value != "" and value not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return str(value) or None

    return Kind(convert)


TEXT = Kind(_text)
INTEGER = Kind(_integer)
NUMBER = Kind(_number)
BOOLEAN = Kind(_boolean)
METADATA = Kind(_metadata)
CURRENCY_OPTIONS = Kind(_currency_options)
TIME_RANGE = Kind(_time_range)
