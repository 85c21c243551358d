"""The actions of operators as forms: their fields, what is read from them, and the function that acts."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from paidup.domain.catalog import AfterRefund, Catalogue
from paidup.errors import InvalidInput
from paidup.operations.actions import OperatorActions
from paidup.operations.audit_log import MAX_NAME, MAX_REASON, Corrected, Instruction
from paidup.operations.corrections import MAX_CREDITS, Gift, PaidBy
from paidup.web.http import PRINTABLE
from paidup.web.operators.words import credits, number

Fields = Mapping[str, str]
Act = Callable[[OperatorActions, Fields, Instruction], Awaitable[Corrected]]
MAX_ID = 255
MAX_EVENTS = 100
MAX_ALSO = 20
_WHOLE_NUMBER = re.compile(r"[-+−]?\d{1,17}", re.ASCII)


@dataclass(frozen=True)
class Field:
    """`options` of a choice: values and what they say."""

    name: str
    label: str
    hint: str = ""
    kind: Literal["text", "number", "date", "choice", "check", "lines"] = "text"
    options: tuple[tuple[str, str], ...] = ()
    required: bool = True


@dataclass(frozen=True)
class ActionForm:
    """`says` is what will be done, in a sentence. `typed`: the field whose value is to be typed once more.

    `warning` is what the operator should know before.
    """

    title: str
    fields: tuple[Field, ...]
    act: Act
    says: Callable[[Fields], str]
    warning: str = ""
    typed: str = ""


ACCOUNT = Field("account", "Account", "Your user id.")
CUSTOMER = Field("customer", "Stripe customer", "cus_…")
EVENTS = Field("events", "Events", "One evt_… a line.", "lines")
_PAID_BY = (
    ("wire", "bank transfer"),
    ("cash", "cash"),
    ("check", "check"),
    ("other", "otherwise"),
)  # words: allow
PAID_BY = Field("paid_by", "How it was paid", "", "choice", _PAID_BY)


def text_of(fields: Fields, name: str, limit: int = MAX_NAME) -> str:
    """A required text, as it was sent: ids that differ in spaces only are different. Raises InvalidInput."""
    value = fields.get(name, "")
    if not 0 < len(value) <= limit or not re.match(PRINTABLE, value):
        raise InvalidInput(f"Please fill in “{name.replace('_', ' ')}”, in at most {limit} characters.")
    return value


def reason_of(fields: Fields) -> str:
    return text_of({"reason": " ".join(fields.get("reason", "").split())}, "reason", MAX_REASON)


def id_of(fields: Fields, name: str) -> str:
    """One of Stripe's ids, which have no spaces. Raises InvalidInput."""
    return text_of({name: fields.get(name, "").strip()}, name, MAX_ID)


def _credits_of(fields: Fields) -> int:
    text = re.sub(r"[\s,]", "", fields.get("credits", ""))
    if not _WHOLE_NUMBER.fullmatch(text) or not 0 < abs(found := int(text.replace("−", "-"))) <= MAX_CREDITS:
        raise InvalidInput("Credits are a whole number, and not zero.")
    return found


def _end_of(fields: Fields) -> datetime | None:
    """The end of the day that was chosen, in UTC."""
    text = fields.get("expires_at", "")
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1) if text else None
    except (ValueError, OverflowError):
        raise InvalidInput("The last day is a date, such as 2027-01-31.") from None


def _lines_of(fields: Fields, name: str, most: int) -> list[str]:
    found = fields.get(name, "").split()
    if len(found) > most or any(len(each) > MAX_ID for each in found):
        raise InvalidInput(f"At most {most} of them, one a line.")
    return found


def _paid_by(fields: Fields) -> PaidBy | None:
    given = fields.get("paid_by", "")
    if given not in {"", *PaidBy}:
        raise InvalidInput("Please choose how it was paid.")
    return PaidBy(given) if given else None


async def _grant(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    gift = Gift(_credits_of(fields), fields.get("plan") or None, _end_of(fields), _paid_by(fields))
    return await actions.grant(text_of(fields, "account"), gift, instruction, fields.get("unit") or None)


async def _grant_invoice(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    account, invoice = text_of(fields, "account"), id_of(fields, "invoice")
    return await actions.grant_invoice(account, invoice, _paid_by(fields) or PaidBy.OTHER, instruction)


async def _adjust(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    account, allowed = text_of(fields, "account"), fields.get("allow_debt") == "yes"
    unit = fields.get("unit") or None
    return await actions.adjust(account, _credits_of(fields), instruction, allowed, unit)


async def _revoke(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    spent = AfterRefund.FORGIVE if fields.get("spent") == AfterRefund.FORGIVE else AfterRefund.DEBT
    return await actions.revoke(text_of(fields, "granted"), instruction, spent)


async def _link(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    customer, account = id_of(fields, "customer"), text_of(fields, "account")
    return await actions.link_customer(customer, account, instruction)


async def _unlink(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    customer, account = id_of(fields, "customer"), text_of(fields, "account")
    return await actions.unlink_customer(customer, account, instruction)


async def _merge(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    return await actions.merge_accounts(text_of(fields, "account"), text_of(fields, "merged"), instruction)


async def _erase(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    also = [line.strip() for line in fields.get("also", "").splitlines() if line.strip()]
    if len(also) > MAX_ALSO or any(len(each) > MAX_ID for each in also):
        raise InvalidInput(f"At most {MAX_ALSO} names or addresses, one a line.")
    return await actions.erase(text_of(fields, "account"), instruction, also)


async def _dismiss(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    return await actions.dismiss(_events_of(fields), instruction)


async def _reopen(actions: OperatorActions, fields: Fields, instruction: Instruction) -> Corrected:
    return await actions.reopen(_events_of(fields), instruction)


def _events_of(fields: Fields) -> list[str]:
    if not (events := _lines_of(fields, "events", MAX_EVENTS)):
        raise InvalidInput("Please name an event.")
    return events


def _says_adjust(fields: Fields) -> str:
    change, account, unit = _credits_of(fields), fields["account"], fields.get("unit", "")
    if change > 0:
        return f"Raise the balance of {account} by {credits(change, unit)}."
    return f"Lower the balance of {account} by {credits(-change, unit)}."


def _says_grant(fields: Fields) -> str:
    return f"Give {credits(_credits_of(fields), fields.get('unit', ''))} to {fields['account']}."


def _says_events(verb: str) -> Callable[[Fields], str]:
    def says(fields: Fields) -> str:
        events = _events_of(fields)
        return f"{verb} {events[0] if len(events) == 1 else f'{number(len(events))} events'}."

    return says


def action_forms(catalogue: Catalogue) -> dict[str, ActionForm]:
    """Each action by its name in the address."""
    plans, unit = (("", "no plan"), *((plan.id, plan.name) for plan in catalogue.plans)), _units(catalogue)
    return {
        "grant": ActionForm(
            "Give credits",
            (
                ACCOUNT,
                Field("credits", "Credits", "", "number"),
                *unit,
                Field("plan", "Plan", "", "choice", plans, required=False),
                Field("expires_at", "Last day", "In UTC. Empty: they never expire.", "date", required=False),
                Field("paid_by", "Paid by", "", "choice", (("", "not paid for"), *_PAID_BY), required=False),
            ),
            _grant,
            _says_grant,
        ),
        "grant-invoice": ActionForm(
            "Credit an invoice that was paid outside of Stripe",
            (ACCOUNT, Field("invoice", "Invoice", "in_…"), PAID_BY),
            _grant_invoice,
            lambda fields: f"Credit {fields['invoice']} to {fields['account']} as paid.",
            "Mark it as paid in Stripe as well: while it is open there, Stripe goes on collecting it.",
        ),
        "adjust": ActionForm(
            "Adjust the balance",
            (
                ACCOUNT,
                Field("credits", "Change", "Below zero to take credits away, such as −50.", "number"),
                *unit,
                Field("allow_debt", "Allow a debt", "", "check", required=False),
            ),
            _adjust,
            _says_adjust,
        ),
        "revoke": ActionForm(
            "Take a grant back",
            (
                Field("granted", "Grant", "Its key, or its id in the audit log."),
                Field(
                    "spent", "What was spent", "", "choice", (("debt", "is owed"), ("forgive", "is forgiven"))
                ),
            ),
            _revoke,
            lambda fields: f"Take back what {fields['granted']} gave.",
        ),
        **_forms_of_customers(),
        "dismiss": ActionForm("Dismiss events", (EVENTS,), _dismiss, _says_events("End the alarm about")),
        "reopen": ActionForm("Reopen events", (EVENTS,), _reopen, _says_events("Undo the dismissal of")),
    }


def _units(catalogue: Catalogue) -> tuple[Field, ...]:
    """Which unit the credits are of, where the plans file names several."""
    options = tuple((unit, unit) for unit in catalogue.named_units)
    return (Field("unit", "Unit", "", "choice", options),) if options else ()


def _forms_of_customers() -> dict[str, ActionForm]:
    return {
        "link-customer": ActionForm(
            "Link a Stripe customer",
            (CUSTOMER, ACCOUNT),
            _link,
            lambda fields: f"Make {fields['customer']} a customer of {fields['account']}.",
            "Its later payments are this account’s, and so are those whose events wait for an account.",
        ),
        "unlink-customer": ActionForm(
            "Unlink a Stripe customer",
            (CUSTOMER, ACCOUNT),
            _unlink,
            lambda fields: f"Make {fields['customer']} no customer of {fields['account']} any more.",
            "What the account has already stays its own.",
        ),
        "merge-accounts": ActionForm(
            "Merge another account into this one",
            (ACCOUNT, Field("merged", "Merged account", "All that it has becomes the account’s above.")),
            _merge,
            lambda fields: f"Make all that {fields['merged']} has {fields['account']}’s.",
            "This cannot be undone. If both have a subscription, cancel one in Stripe.",
            "merged",
        ),
        "erase": ActionForm(
            "Erase a person",
            (
                ACCOUNT,
                Field(
                    "also",
                    "Names and addresses",
                    "What operators may have written, one a line.",
                    "lines",
                    (),
                    False,
                ),
            ),
            _erase,
            lambda fields: f"Erase what names the person behind {fields['account']}, and keep the books.",
            "This cannot be undone. The reason stays, so it must not name the person.",
            "account",
        ),
    }
