"""Every event type that the code handles is in the document that says what to enable."""

from __future__ import annotations

import re

from paidup.reconciliation.stripe_events import HANDLED_TYPES
from tests.structure.event_types import BEGIN, DOCUMENT, END, written


def test_the_document_lists_every_handled_event_type() -> None:
    """An endpoint made by hand from a shorter list would get no refunds."""
    text = DOCUMENT.read_text()
    listed = text.partition(BEGIN)[2].partition(END)[0]
    assert re.findall(r"`([a-z_.]+)`", listed) == sorted(HANDLED_TYPES), f"run {BEGIN.split('`')[1]}"
    assert written(text) == text
