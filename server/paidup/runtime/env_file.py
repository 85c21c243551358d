"""Reads a `.env` file, and finds names that look like a misspelt setting."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from paidup.errors import ConfigurationError

SIMILAR = 0.8
"""How alike a name and a setting are, from 0 to 1, where one is taken for the other misspelt."""
PREFIX = re.compile(r"\APAIDUP_")


def read_env_file(path: Path) -> dict[str, str]:
    """The values of the file, or none if there is no such file. Raises ConfigurationError."""
    if not path.exists():
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError([_not_utf8(path)]) from None
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be read: {error.strerror}"]) from None
    if "\0" in text:
        raise ConfigurationError([_not_utf8(path)])
    if wrong := [each.original.line for each in parse_stream(StringIO(text)) if each.error]:
        raise ConfigurationError([f"{path}, line {line}: write it as NAME=value" for line in wrong])
    values = dotenv_values(stream=StringIO(text))
    return {name: value for name, value in values.items() if value is not None}


def _not_utf8(path: Path) -> str:
    return f"{path} is not UTF-8 text (perhaps UTF-16, from an editor on Windows): save it as UTF-8"


def misspelt(given: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Names that are no settings and resemble one, or begin with PAIDUP_, each with the nearest setting."""
    found = {}
    for name in sorted(set(given) - set(known)):
        bare = PREFIX.sub("", name.upper())
        near = get_close_matches(bare, known, 1, SIMILAR if bare == name.upper() else 0.0)
        if near:
            found[name] = near[0]
    return found
