"""When a failed collection is tried again, and when it is given up.

https://docs.stripe.com/billing/revenue-recovery/smart-retries: a custom schedule has up to three retries.
"""

from __future__ import annotations

from paidup_demo.sandbox.clock import DAY_S
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World

RETRY_AFTER_S = (3 * DAY_S, 5 * DAY_S, 7 * DAY_S)
"""How long after each failed attempt the next one is made."""


def next_attempt_at(world: World, invoice: Json) -> int | None:
    """When to charge again after a failed attempt. None after the last one, or if nobody collects."""
    planned: int | None = invoice["next_payment_attempt"]
    if not invoice["auto_advance"] or (planned is not None and planned > world.now()):
        return planned
    note = world.store.note(invoice["id"])
    done = note.get("retries", 0)
    if done == len(RETRY_AFTER_S):
        note["retries_over"] = True
        return None
    note["retries"] = done + 1
    return world.now() + RETRY_AFTER_S[done]


def is_given_up(world: World, invoice: Json) -> bool:
    """Whether all retries have failed."""
    return bool(world.store.note(invoice["id"]).get("retries_over")) and invoice["status"] == "open"
