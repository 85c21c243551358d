"""What an action changes, in words and numbers, and the action that undoes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from paidup.db.models import Action
from paidup.operations.audit_log import Corrected
from paidup.web.operators.words import amount, credits, number, words_of

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


def changes_of(corrected: Corrected, units: Sequence[str] = ()) -> list[Change]:
    """From what to what. `units`: the names, where there are several."""
    return [*_balances(corrected, units), *_changes(corrected)]


def _balances(corrected: Corrected, units: Sequence[str]) -> Iterator[Change]:
    """Of the default unit, which a row calls `balance`, and of others."""
    before, after = corrected.before, corrected.after
    others_before, others = (dict(row.get("units", {})) for row in (before, after))
    if (unit := _unit_of(corrected)) or "balance" in after:
        name = unit or "balance"
        yield _balance(before.get(name), after[name], unit, units)
    for other, is_ in others.items():
        yield _balance(others_before.get(other), is_, other, units)
    if "merged_balance" in before:
        label = f"Balance of {corrected.details.get('merged', 'the other')}"
        for unit, was in {"": before["merged_balance"], **before.get("merged_units", {})}.items():
            yield Change(label, amount(was, unit, units), "none")


def _unit_of(corrected: Corrected) -> str:
    """The other unit than the default one that it moved alone; it may be named as another fact is."""
    unit = str(corrected.details.get("unit", ""))
    return unit if unit in corrected.after else ""


def _balance(was: int | None, is_: int, unit: str, units: Sequence[str]) -> Change:
    before = "" if was is None else number(was)
    if not (unit or units):
        return Change("Balance", before, credits(is_))
    return Change(f"Balance of {unit or units[0]}", before, number(is_))


def _changes(corrected: Corrected) -> Iterator[Change]:
    before, after, details = corrected.before, corrected.after, corrected.details
    if _unit_of(corrected):
        return
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
        case Action.ADJUST if isinstance(by := _adjusted_by(details), int) and corrected.id not in revoked:
            fields = {"account": corrected.account, "credits": -by, "unit": details.get("unit", "")}
            return Undo("adjust", {**fields, "key": f"{UNDO}{corrected.id}"})
        case Action.LINK | Action.UNLINK if "customer" in details:
            name = "unlink-customer" if corrected.action is Action.LINK else "link-customer"
            return Undo(name, {"customer": details["customer"], "account": corrected.account})
        case Action.DISMISS | Action.REOPEN if details.get("events"):
            name = "reopen" if corrected.action is Action.DISMISS else "dismiss"
            return Undo(name, {"events": "\n".join(map(str, details["events"]))})
    return None


def _adjusted_by(details: dict[str, Any]) -> Any:
    """Of the unit that `details` name, or of the default one."""
    return details.get("by" if "unit" in details else "credits")


def revoked_in(corrections: Collection[Corrected]) -> set[str]:
    """The grants that these took back, and the adjustments that they undid."""
    grants = {str(each.details.get("granted")) for each in corrections if each.action is Action.REVOKE}
    return grants | {each.key.removeprefix(UNDO) for each in corrections if each.key.startswith(UNDO)}
