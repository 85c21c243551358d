"""Why a secret is too easy to guess: a placeholder, too short, or one character repeated."""

from __future__ import annotations

import re

PLACEHOLDER = re.compile(r"\.\.\.|…|<|change.?me|replace.?me|placeholder|example|your[-_ ]", re.IGNORECASE)
DISTINCT_CHARACTERS = 6
"""Secrets with fewer are refused; 16 random hex digits have fewer once in 30,000."""


def weakness(name: str, secret: str, shortest: int) -> str | None:
    """What is wrong with the secret of this setting, or None. Never shows the secret."""
    random_part = re.sub(r"\A(?:[srp]k_(?:test|live)|whsec)_", "", secret)
    if PLACEHOLDER.search(secret):
        return "is a placeholder"
    if len(secret) < shortest:
        return f"is shorter than {shortest} characters"
    if len(set(random_part)) < DISTINCT_CHARACTERS:
        return f"has fewer than {DISTINCT_CHARACTERS} different characters"
    if name.startswith("STRIPE_") and not re.fullmatch(r"[!-~]+", secret):
        return "has a character that Stripe's keys never contain"
    return None
