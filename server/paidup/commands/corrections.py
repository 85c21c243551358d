"""The commands that correct credits: grant, revoke, adjust, and the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from paidup.commands.coroutines import run
from paidup.commands.output import console
from paidup.commands.shared import Json, print_json, quiet_settings, with_database
from paidup.db.accounts import find_account
from paidup.db.connection import storage_errors
from paidup.domain.catalog import AfterRefund
from paidup.errors import InvalidInput, NotFound
from paidup.operations.actions import OperatorActions
from paidup.operations.audit_log import Corrected, Instruction, list_corrections
from paidup.operations.backfill import parse_since
from paidup.operations.corrections import Gift, PaidBy
from paidup.operations.dismissal import current_user
from paidup.services import open_services
from paidup.settings import Settings

Reason = Annotated[str, typer.Option(help="Why, for the audit log. The customer does not see it.")]
Key = Annotated[
    str, typer.Option(help="Idempotency key, such as a ticket's number: it is done once for each.")
]
By = Annotated[str, typer.Option(help="Who decided it. Default: your user name here.")]
AccountId = Annotated[str, typer.Argument(help="Your user id.")]
Unit = Annotated[str, typer.Option(help="The unit, one of plans.toml. Default: its first.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Work = Callable[[OperatorActions], Awaitable[Corrected]]


def instruction(by: str, reason: str, key: str) -> Instruction:
    return Instruction(by or current_user(), reason, key)


def confirm(yes: bool, question: str) -> None:
    """Ask, unless it was answered by --yes. Exit code 1 for a no."""
    if not yes:
        typer.confirm(question, abort=True, err=True)


def show(settings: Settings, as_json: bool, work: Work) -> None:
    """Run it with all services, so that open pages are told, and print what it did."""
    done = run(_with_services(settings, work))
    if as_json:
        print_json(done)
        return
    changes = ", ".join(f"{name} {done.before.get(name)} -> {value}" for name, value in done.after.items())
    about = f" {done.account}" if done.account else ""
    console.print(f"{done.action}{about}: {changes} ({done.id})", markup=False, highlight=False)


async def _with_services(settings: Settings, work: Work) -> Corrected:
    async with open_services(settings) as services:
        return await work(
            OperatorActions(services.catalogue, services.verification, services.settlement, services.clock)
        )


def grant(  # noqa: PLR0913 - a command's parameters are its options
    account: AccountId,
    reason: Reason,
    key: Key,
    credits: Annotated[int, typer.Option(help="How many. Without it, --invoice says.")] = 0,
    invoice: Annotated[str, typer.Option(help="in_...: one that was paid outside of Stripe.")] = "",
    paid_by: Annotated[PaidBy | None, typer.Option(help="How it was paid.")] = None,
    plan: Annotated[str, typer.Option(help="The plan that they count as, one of your plans.")] = "",
    expires: Annotated[str, typer.Option(help="When unused ones expire: 2027-01-31, UTC.")] = "",
    unit: Unit = "",
    by: By = "",
    as_json: Json = False,
) -> None:
    """Give credits, or credit an invoice that was paid outside of Stripe. Undo: revoke."""
    asked = instruction(by, reason, key)
    if bool(invoice) == bool(credits):
        raise InvalidInput("Say either how many --credits, or which --invoice was paid.")
    if invoice and (plan or expires or unit or paid_by is None):
        raise InvalidInput("An --invoice needs --paid-by, and its lines say which plan and until when.")
    gift = Gift(credits, plan or None, parse_since(expires) if expires else None, paid_by)

    async def work(actions: OperatorActions) -> Corrected:
        if invoice and paid_by is not None:
            return await actions.grant_invoice(account, invoice, paid_by, asked)
        return await actions.grant(account, gift, asked, unit or None)

    show(quiet_settings(), as_json, work)


def revoke(
    granted: Annotated[str, typer.Argument(help="The key or the id (cor_...) of a grant.")],
    reason: Reason,
    key: Key,
    spent: Annotated[
        AfterRefund, typer.Option(help="What becomes of credits that are spent already.")
    ] = AfterRefund.DEBT,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Take back the credits of `paidup grant`."""

    async def work(actions: OperatorActions) -> Corrected:
        return await actions.revoke(granted, instruction(by, reason, key), spent)

    show(quiet_settings(), as_json, work)


def adjust(  # noqa: PLR0913 - a command's parameters are its options
    account: AccountId,
    credits: Annotated[int, typer.Option(help="How many more, or fewer: --credits=-50.")],
    reason: Reason,
    key: Key,
    allow_debt: Annotated[bool, typer.Option("--allow-debt", help="Also below a balance of zero.")] = False,
    unit: Unit = "",
    by: By = "",
    as_json: Json = False,
) -> None:
    """Raise or lower a balance that is wrong. Undo: adjust by the opposite."""

    async def work(actions: OperatorActions) -> Corrected:
        asked = instruction(by, reason, key)
        return await actions.adjust(account, credits, asked, allow_debt, unit or None)

    show(quiet_settings(), as_json, work)


def audit_log(
    account: Annotated[str, typer.Argument(help="Your user id. Default: all.")] = "",
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 100,
    as_json: Json = False,
) -> None:
    """List what operators have done: when, who, what and why. Newest first."""
    found = run(with_database(quiet_settings(), _listed(account, limit)))
    if as_json:
        print_json({"corrections": found})
        return
    if not found:
        console.print("No operator has changed anything.")
    for each in found:
        about = each.account or each.details.get("endpoint")
        console.print(f"{about}: {each.summary}" if about else each.summary, markup=False, highlight=False)


async def _listed(account: str, limit: int) -> list[Corrected]:
    with storage_errors():
        row = await find_account(account) if account else None
    if account and row is None:
        raise NotFound(f"There is no account {account!r}.")
    return await list_corrections(row, limit)


def link_customer(
    customer: Annotated[str, typer.Argument(help="cus_...: a Stripe customer that has no account yet.")],
    account: AccountId,
    reason: Reason,
    key: Key,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Link a Stripe customer to an account, and credit its pending payments. Undo: unlink-customer."""

    async def work(actions: OperatorActions) -> Corrected:
        return await actions.link_customer(customer, account, instruction(by, reason, key))

    show(quiet_settings(), as_json, work)


def unlink_customer(
    customer: Annotated[str, typer.Argument(help="cus_...: a Stripe customer of this account.")],
    account: AccountId,
    reason: Reason,
    key: Key,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Undo link-customer. The account keeps the credits that it was given."""

    async def work(actions: OperatorActions) -> Corrected:
        return await actions.unlink_customer(customer, account, instruction(by, reason, key))

    show(quiet_settings(), as_json, work)


def merge_accounts(
    into: Annotated[str, typer.Argument(help="Your user id: the account that stays.")],
    merged: Annotated[str, typer.Argument(help="Your user id: the account that is moved into it.")],
    reason: Reason,
    key: Key,
    yes: Yes = False,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Move all that one account has into another, which stands for both from then on. No undo."""
    confirm(yes, f"Merge {merged!r} into {into!r}? This cannot be undone.")

    async def work(actions: OperatorActions) -> Corrected:
        return await actions.merge_accounts(into, merged, instruction(by, reason, key))

    show(quiet_settings(), as_json, work)


def erase(
    account: AccountId,
    reason: Reason,
    key: Key,
    also: Annotated[
        list[str] | None, typer.Option(help="A name or an address that operators may have written.")
    ] = None,
    yes: Yes = False,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Erase the personal data of an account, and keep its ledger. No undo."""
    confirm(yes, f"Erase the person behind {account!r}? This cannot be undone.")

    async def work(actions: OperatorActions) -> Corrected:
        return await actions.erase(account, instruction(by, reason, key), also or ())

    show(quiet_settings(), as_json, work)
