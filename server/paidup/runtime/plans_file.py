"""Reads the plans file."""

from __future__ import annotations

from pathlib import Path

from paidup.domain.catalog import Catalogue
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import ConfigurationError


def read_catalogue(path: Path) -> Catalogue:
    """The plans on sale. Raises ConfigurationError that lists every fault, with its line and key."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"PLANS_FILE: {path} cannot be read: {error.strerror}"]) from error
    return parse_catalogue(text, str(path))
