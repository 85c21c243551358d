"""Reads RETURN_PAGE_FILE, and the English texts that it may replace."""

from __future__ import annotations

import json
from pathlib import Path

from paidup.domain.return_page import ReturnPage, Texts, parse_return_page
from paidup.errors import ConfigurationError

ENGLISH: Texts = json.loads((Path(__file__).parents[1] / "return_words.json").read_text())
"""The texts of the element (a test compares them), and the page's own."""


def read_return_page(path: str) -> ReturnPage:
    """The page's language, texts and colours; all defaults without a path.

    Raises ConfigurationError that lists every fault, with its line and key.
    """
    if not path:
        return ReturnPage()
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError([f"RETURN_PAGE_FILE: {path} cannot be read: {error.strerror}"]) from error
    return parse_return_page(text, path, ENGLISH)
