"""Parses plans.toml: the catalogue, or every fault of the text with its line and key. Reads no file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import msgspec

from paidup.domain.catalog import MAX_RIGHTS, Catalogue, Interval, Plan, Rollover
from paidup.domain.toml_faults import Fault, Place, describe, find_faults
from paidup.domain.units import DEFAULT_UNIT
from paidup.errors import ConfigurationError


def parse_catalogue(text: bytes, source: str = "plans.toml") -> Catalogue:
    """Parse a `plans.toml`. Raises ConfigurationError that names every fault, with its line and key."""
    try:
        decoded = text.decode("utf-8-sig")
        document = tomllib.loads(decoded)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{source}: {error}"]) from error
    if found := [*find_faults(document, Catalogue), *_faults_between(document)]:
        raise ConfigurationError(describe(found, decoded, source))
    return _with_default_unit(msgspec.convert(document, Catalogue))


def _with_default_unit(catalogue: Catalogue) -> Catalogue:
    """The same, with the default unit called as it is in the code, whatever the file calls it."""
    default = catalogue.units[0]

    def named(plan: Plan) -> Plan:
        grants = {DEFAULT_UNIT if unit == default else unit: credits for unit, credits in plan.grants.items()}
        unit = DEFAULT_UNIT if plan.unit == default else plan.unit
        return msgspec.structs.replace(plan, unit=unit, grants=grants)

    return msgspec.structs.replace(catalogue, plans=tuple(map(named, catalogue.plans)))


def _faults_between(document: dict[str, Any]) -> Iterator[Fault]:
    """What is wrong only beside something else: used twice, or a contradiction within a plan."""
    plans = document.get("plans")
    yield from _faults_of_units(document)
    ids: set[str] = set()
    keys: set[str] = set()
    for index, given in enumerate(plans if isinstance(plans, list) else ()):
        try:
            plan = msgspec.convert(given, Plan)
        except msgspec.ValidationError:
            continue  # its own faults come first
        place: Place = ("plans", index)
        if plan.id in ids:
            yield Fault((*place, "id"), f"plan id used twice: {plan.id}")
        ids.add(plan.id)
        for key in [*(price.lookup_key for price in plan.prices), *plan.previous_lookup_keys]:
            if key in keys:
                yield Fault(place, f"lookup key used twice: {key}")
            keys.add(key)
        yield from (Fault((*place, *fault.place), fault.text) for fault in _find_contradictions(plan))


def _faults_of_units(document: dict[str, Any]) -> Iterator[Fault]:
    """A unit that is named twice, not named at all, or given twice by one plan."""
    try:
        catalogue = msgspec.convert(document, Catalogue)
    except msgspec.ValidationError:
        return  # its own faults come first
    units = catalogue.units
    for index, unit in enumerate(units):
        if not unit or unit in units[:index]:
            yield Fault(("units", index), f"named twice: {unit}" if unit else "a unit needs a name")
    for index, plan in enumerate(catalogue.plans):
        place: Place = ("plans", index)
        known = f"`units` names {', '.join(units)}"
        if plan.unit and plan.unit not in units:
            yield Fault((*place, "unit"), f"no such unit: {plan.unit}; {known}")
        for unit in plan.grants:
            if unit not in units:
                yield Fault((*place, "grants", unit), f"no such unit: {unit}; {known}")
            elif unit == (plan.unit or units[0]):
                yield Fault((*place, "grants", unit), f"`credits` says already how many {unit} it gives")


def _find_contradictions(plan: Plan) -> Iterator[Fault]:
    if len({price.interval is Interval.ONCE for price in plan.prices}) > 1:
        yield Fault(("prices",), "prices paid once and recurring prices cannot be mixed")
    if (plan.rollover is Rollover.CAP) != (plan.rollover_cap > 0):
        key = "rollover_cap" if plan.rollover_cap else "rollover"
        yield Fault((key,), 'rollover = "cap" and rollover_cap go together')
    if plan.top_up and plan.rollover is not Rollover.KEEP:
        yield Fault(("rollover",), "a top-up cannot expire")
    yield from _faults_of_rights(plan)
    for index, price in enumerate(plan.prices):
        place: Place = ("prices", index, "amount_minor")
        if plan.top_up and price.amount_minor == 0:
            yield Fault(place, "a price paid once cannot be 0: it could be bought any number of times")
        if price.amount_minor % price.smallest_step_minor:
            step = f"Stripe charges {price.currency} in multiples of {price.smallest_step_minor}"
            yield Fault(place, f"{price.amount_minor}: {step}")
        if (plan.max_quantity or 1) * price.amount_minor > price.largest_amount_minor:
            largest = f"Stripe charges at most {price.largest_amount_minor} {price.currency} at once"
            yield Fault(place, f"{plan.max_quantity or 1} x {price.amount_minor}: {largest}")


def _faults_of_rights(plan: Plan) -> Iterator[Fault]:
    if len(plan.limits) > MAX_RIGHTS:
        yield Fault(("limits",), f"at most {MAX_RIGHTS} limits")
    if plan.top_up:
        for key in ("features", "limits"):
            if getattr(plan, key):
                yield Fault((key,), "only a plan with a recurring price has them, no top-up")
    for index, name in enumerate(plan.features):
        if name in plan.features[:index]:
            yield Fault(("features",), f"named twice: {name}")
