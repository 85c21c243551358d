"""What an action changes, in words and numbers, and the action that undoes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from paidup.db.models import Action
from paidup.operations.audit_log import Corrected
from paidup.web.operators.words import credits, number, words_of

UNDO = "undo-"
"""What the key of an adjustment's undoing begins with, before the adjustment's id: it is done once."""
_DONE = {
    Action.GRANT: "Credits given",
    Action.REVOKE: "Grant taken back",
    Action.ADJUST: "Balance adjusted",
    Action.LINK: "Customer linked",
    Action.UNLINK: "Customer unlinked",
    Action.DISMISS: "Events dismissed",
    Action.REOPEN: "Events reopened",
    Action.MERGE: "Accounts merged",
    Action.ERASE: "Person erased",
}
_COUNTED = {
    "accounts": "Accounts renamed",
    "events": "Events emptied",
    "timeline": "Timeline entries deleted",
    "events_woken": "Waiting events handled again",
}


@dataclass(frozen=True)
class Change:
    """`before` "": there was nothing of it."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Undo:
    """An action's name in the address, and its fields."""

    action: str
    fields: dict[str, Any]


def done_words(corrected: Corrected) -> str:
    return _DONE.get(corrected.action, words_of(corrected.action).capitalize())


def changes_of(corrected: Corrected) -> list[Change]:
    """From what to what."""
    return list(_changes(corrected))


def _changes(corrected: Corrected) -> Iterator[Change]:
    before, after, details = corrected.before, corrected.after, corrected.details
    if (unit := str(details.get("unit", ""))) and unit in after:
        yield Change(f"Balance of {unit}", number(before[unit]), number(after[unit]))
        return  # it may be named as anything below is
    if "balance" in after:
        was = before.get("balance")
        yield Change("Balance", "" if was is None else number(was), credits(after["balance"]))
    if "merged_balance" in before:
        yield Change(
            f"Balance of {details.get('merged', 'the other')}", number(before["merged_balance"]), "none"
        )
    if "status" in after:
        yield Change(
            "Status of the invoice", words_of(str(before.get("status", ""))), words_of(after["status"])
        )
    if corrected.action in (Action.LINK, Action.UNLINK):
        states = ["no account", str(corrected.account)]
        was_, is_ = states if corrected.action is Action.LINK else reversed(states)
        yield Change(f"Account of {details.get('customer', 'the customer')}", was_, is_)
    for name, was_word, is_word in (
        ("dismissed", "waiting", "dismissed"),
        ("waiting", "dismissed", "waiting"),
    ):
        for event in after.get(name, ()):
            yield Change(str(event), was_word, is_word)
    for name, label in _COUNTED.items() if corrected.action in (Action.ERASE, Action.LINK) else ():
        if isinstance(count := details.get(name), int):
            yield Change(label, "", number(count))


def undo_of(corrected: Corrected, revoked: Collection[str] = ()) -> Undo | None:
    """The action that undoes it; None where nothing does, or that was done. `revoked`: what was undone."""
    details = corrected.details
    match corrected.action:
        case Action.GRANT if corrected.id not in revoked:
            return Undo("revoke", {"granted": corrected.id})
        case Action.ADJUST if corrected.id not in revoked and ("credits" in details or "unit" in details):
            by: int = details["by"] if "unit" in details else details["credits"]
            fields = {"account": corrected.account, "credits": -by, "unit": details.get("unit", "")}
            return Undo("adjust", {**fields, "key": f"{UNDO}{corrected.id}"})
        case Action.LINK | Action.UNLINK if "customer" in details:
            name = "unlink-customer" if corrected.action is Action.LINK else "link-customer"
            return Undo(name, {"customer": details["customer"], "account": corrected.account})
        case Action.DISMISS | Action.REOPEN if details.get("events"):
            name = "reopen" if corrected.action is Action.DISMISS else "dismiss"
            return Undo(name, {"events": "\n".join(map(str, details["events"]))})
    return None


def revoked_in(corrections: Collection[Corrected]) -> set[str]:
    """The grants that these took back, and the adjustments that they undid."""
    grants = {str(each.details.get("granted")) for each in corrections if each.action is Action.REVOKE}
    return grants | {each.key.removeprefix(UNDO) for each in corrections if each.key.startswith(UNDO)}
