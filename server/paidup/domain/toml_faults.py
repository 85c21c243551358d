"""Every fault in a TOML document, each with its key and its line.

msgspec reports the first fault, without a line. `tomllib` keeps no lines, so they are found in the text
again; a key that is not found there, such as one of an inline table, has the line of what contains it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

Place = tuple[str | int, ...]
"""The keys and indices that lead to a value: ("plans", 0, "credits")."""

_HEADER = re.compile(r"\s*\[(\[)?\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*=")
_QUOTES = re.compile(r'"""|\'\'\'')


class Fault(NamedTuple):
    place: Place
    text: str


def find_faults(value: Any, kind: Any, place: Place = ()) -> Iterator[Fault]:
    """What is wrong in a parsed document, or a part of it, that is to be of the type `kind`."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if _is_struct(plain):
        yield from _faults_of_table(value, plain, place)
    elif get_origin(plain) is tuple and _is_struct(get_args(plain)[0]) and isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from find_faults(item, get_args(plain)[0], (*place, index))
    elif get_origin(plain) is dict and isinstance(value, dict):
        names, values = get_args(plain)
        for name, item in value.items():
            if text := _fault_of(name, names):
                yield Fault((*place, name), text)
            else:
                yield from find_faults(item, values, (*place, name))
    elif text := _fault_of(value, kind):
        yield Fault(place, text)


def _fault_of(value: Any, kind: Any) -> str | None:
    """What is wrong in one value, in the words of its type where that has a description."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        described = next(
            (meta.description for meta in get_args(kind)[1:] if getattr(meta, "description", None)), None
        )
        return f"Expected {described}, got {value!r}" if described else str(error)
    return None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@cache
def _described(kind: type[msgspec.Struct]) -> tuple[dict[str, msgspec.structs.FieldInfo], dict[str, Any]]:
    """The fields of a table by their keys, and their types by name. Every start asks for them many times."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    return fields, get_type_hints(kind, include_extras=True)


def _faults_of_table(value: Any, kind: type[msgspec.Struct], place: Place) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield Fault(place, f"Expected a table, got `{value!r}`")
        return
    fields, types = _described(kind)
    for name, field in fields.items():
        if field.required and name not in value:
            yield Fault(place, f"`{name}` is missing")
    for name, given in value.items():
        if name in fields:
            yield from find_faults(given, types[fields[name].name], (*place, name))
        else:
            near = get_close_matches(name, fields, 1)
            known = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(fields)}"
            yield Fault((*place, name), f"unknown key; {known}")


def describe(faults: Iterable[Fault], text: str, source: str) -> list[str]:
    """One line for each fault, in the order of the text."""
    lines = _lines_of_keys(text)
    located = sorted((_line_of(fault.place, lines), fault) for fault in faults)
    return [
        f"{source}{f', line {line}' if line else ''}: {_dotted(fault.place)}{fault.text}"
        for line, fault in located
    ]


def _line_of(place: Place, lines: dict[Place, int]) -> int:
    return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 0)


def _dotted(place: Place) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"{''.join(parts).lstrip('.')}: " if place else ""


def _lines_of_keys(text: str) -> dict[Place, int]:
    """The line of each header and of each key, by its place."""
    lines: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    inside_quotes = False
    for number, line in enumerate(text.splitlines(), 1):
        if not inside_quotes:
            if header := _HEADER.match(line):
                table = _place_of_header(header[2], header[1] is not None, counts)
                lines.setdefault(table, number)
            elif key := _KEY.match(line):
                lines.setdefault((*table, key[1].strip("\"'")), number)
        inside_quotes ^= len(_QUOTES.findall(line)) % 2 == 1
    return lines


def _place_of_header(name: str, is_array: bool, counts: dict[Place, int]) -> Place:
    """The place of `[name]` or `[[name]]`; `counts` has the newest index of each array of tables."""
    place: Place = ()
    parts = [part.strip().strip("\"'") for part in name.split(".")]
    for depth, part in enumerate(parts, 1):
        place = (*place, part)
        if is_array and depth == len(parts):
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place
