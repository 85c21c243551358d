"""Finds what an account's row repeats wrongly of other rows, and corrects it on demand: `paidup audit`.

`held` repeats its reservations, and `known_subscriptions` its subscriptions. A process of a release that did
not know the columns yet writes neither, so that after a rolling deploy they may be wrong until the account's
next reservation, or the next read of a subscription. Neither is a balance: nothing is credited by them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from paidup.credits import ledger, reservations
from paidup.credits.audit import ACCOUNTS_PER_SLICE, Finding
from paidup.db.connection import connection, repeatable, storage_errors, write_transaction
from paidup.db.models import Account
from paidup.db.unit_accounts import in_all_units
from paidup.payments import entitlements

# Only integers of our own are formatted into it. An account that is not listed has nothing to repeat.
_LISTED = """
SELECT id FROM accounts
  WHERE id > {after} AND id <= {last} AND (held <> 0 OR unit_balances IS NOT NULL)
UNION SELECT account_id FROM reservations
  WHERE state = 'held' AND account_id > {after} AND account_id <= {last}
UNION SELECT account_id FROM subscriptions WHERE account_id > {after} AND account_id <= {last}
"""


async def check_rows(repair: bool) -> list[Finding]:
    """What differs in all accounts; with `repair`, it was corrected. Raises StorageUnavailable."""
    return [finding async for account in _listed() for finding in await _check(account, repair)]


async def _listed() -> AsyncIterator[int]:
    after: int | None = 0
    while after is not None:
        with storage_errors():
            slice_ = Account.filter(id__gt=after).order_by("id").limit(ACCOUNTS_PER_SLICE)
            ids = await slice_.values_list("id", flat=True)
            last = int(str(ids[-1])) if ids else None
            listed = _LISTED.format(after=after, last=last or 0)
            found = await connection().execute_query_dict(listed) if ids else []
        for row in found:
            yield int(row["id"])
        after = last


@repeatable
async def _check(account_id: int, repair: bool) -> list[Finding]:
    """Under the account's lock: else it could be compared with what is being written."""
    async with write_transaction():
        account = await ledger.lock_account(account_id)
        subject, since = f"account {account.external_id}", account.version
        findings = []
        for own in in_all_units(account):
            held, of_unit = own.held, f", {own.unit}" if own.unit else ""
            if await reservations.correct_held(own):
                findings.append(
                    Finding(subject + of_unit, f"held is {held}, its reservations hold {own.held}")
                )
        if findings:
            account.version += 1
        if repair and findings:
            await account.save(update_fields=["held", "unit_balances", "version"])
        if await entitlements.is_outdated(account):
            findings.append(Finding(subject, "its row has other subscriptions than it has"))
            if repair:
                await entitlements.refresh(account, since)
    return findings
