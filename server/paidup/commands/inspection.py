"""The commands that look: explain, doctor and audit. They change nothing, but for `audit --repair`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from paidup.commands.coroutines import run
from paidup.commands.output import console, error_console
from paidup.commands.shared import Json, print_json, quiet_settings, with_database
from paidup.credits.audit import Finding, audit_all
from paidup.db.connection import storage_errors
from paidup.db.models import Account
from paidup.errors import ConfigurationError
from paidup.operations.doctor.report import any_failed, invalid_settings, render_table
from paidup.operations.doctor.run import STEPS, run_checks
from paidup.operations.explain import REFERENCE_KINDS
from paidup.operations.explain import explain as explain_reference
from paidup.operations.explain_terminal import render_explanation
from paidup.operations.progress import progress_bar, progress_steps
from paidup.operations.row_repairs import check_rows


def explain(
    reference: Annotated[
        str, typer.Argument(help="in_..., cs_..., pi_..., sub_..., cus_... or your user id.")
    ],
    as_json: Json = False,
) -> None:
    """Explain an invoice's status: its timeline, what it is waiting for, and what to do."""
    explanation = run(with_database(quiet_settings(), explain_reference(reference)))
    if as_json:
        print_json(explanation)
    elif explanation.found:
        console.print(render_explanation(explanation))
    else:
        error_console.print(f"Not found: no {REFERENCE_KINDS} is {escape(repr(reference))}.")
    if not explanation.found:
        raise typer.Exit(1)


def doctor(
    webhook_url: Annotated[
        str | None,
        typer.Option(help="URL of the webhook endpoint. Default: any endpoint with Paidup's path."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Also check the public URL, such as https://your.host.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check settings, Stripe, database and Redis. Exit code 1 if a check fails."""
    try:
        settings = quiet_settings()
    except ConfigurationError as error:
        checks = invalid_settings(error)
    else:
        with progress_steps("Checks", STEPS) as on_step:
            checks = run(run_checks(settings, webhook_url, url, on_step))
    if as_json:
        print_json({"ok": not any_failed(checks), "checks": checks})
    else:
        console.print(render_table(checks))
    if any_failed(checks):
        raise typer.Exit(1)


def audit(
    repair: Annotated[
        bool, typer.Option("--repair", help="Correct the copies in accounts' rows; no balance.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare balances, entries, grants and accounts' rows. Exit code 1 if they differ."""
    settings = quiet_settings()
    accounts, findings, outdated = run(with_database(settings, _audit(repair)))
    repaired = outdated if repair else []
    if not repair:
        findings += outdated
    if as_json:
        print_json({"accounts": accounts, "differences": findings, "repaired": repaired})
    else:
        for text, found in (("", findings), ("repaired: ", repaired)):
            for finding in found:
                line = f"{text}{finding.subject}: {finding.what}"
                console.print(line, markup=False, highlight=False)
        console.print(f"{accounts} accounts, {len(findings)} differences")
    if findings:
        raise typer.Exit(1)


async def _audit(repair: bool) -> tuple[int, list[Finding], list[Finding]]:
    with storage_errors():
        total = await Account.all().count()
    audited = 0
    with progress_bar("Accounts", total) as progress:

        def on_progress(accounts: int) -> None:
            nonlocal audited
            audited += accounts
            progress.update(progress.task_ids[0], completed=audited, done=f"{audited} accounts")

        findings = await audit_all(on_progress)
    return audited, findings, await check_rows(repair)
