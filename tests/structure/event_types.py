"""The event types in docs/stripe.md, written from the code's list.

`python -m tests.structure.event_types` writes them; a test of this folder checks that they agree.
"""

from __future__ import annotations

import textwrap

from paidup.reconciliation.stripe_events import HANDLED_TYPES
from tests.structure.sources import ROOT

DOCUMENT = ROOT / "docs" / "stripe.md"
BEGIN = "<!-- event types: written by `python -m tests.structure.event_types` -->\n"
END = "<!-- end of event types -->\n"


def written(text: str) -> str:
    """The document with the list as the code has it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    names = ", ".join(f"`{name}`" for name in sorted(HANDLED_TYPES))
    listed = textwrap.fill(f"{names}.", 100, break_long_words=False, break_on_hyphens=False)
    return f"{before}{BEGIN}\n{listed}\n\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
