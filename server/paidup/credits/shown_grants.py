"""What is shown of an account's live grants: those that are spent first, and what expires when.

An account may have very many grants with credits. What is read here does not grow with their number.
The functions raise StorageUnavailable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from paidup.credits.ledger import is_over
from paidup.credits.moves import spent_first
from paidup.db.connection import connection, is_sqlite, storage_errors
from paidup.db.instances import to_time
from paidup.db.models import WITH_CREDITS, CreditGrant, Invoice
from paidup.db.unit_accounts import AnyAccount
from paidup.db.unit_of_work import read_many

MOST = 100
"""Grants that are shown of one account."""
FIRST = f"{WITH_CREDITS} {spent_first(MOST + 1)}"
"""Of an account: one more than are shown, in the order in which they are spent."""


async def first_grants(account_id: int, unit: str | None = None) -> list[CreditGrant]:
    """See `FIRST`; of one unit, or of all. Those from before grants named their plan get their invoice's."""
    own, values = ("", ()) if unit is None else ("unit = $2 AND ", (unit,))
    with storage_errors():
        found = await read_many(CreditGrant, f"account_id = $1 AND {own}{FIRST}", account_id, *values)
        if unnamed := [grant.invoice_id for grant in found if lacks_plan(grant)]:
            plans: dict[str, str | None] = dict(
                await Invoice.filter(id__in=unnamed).values_list("id", "plan")
            )
            for grant in filter(lacks_plan, found):
                grant.plan = plans[grant.invoice_id or ""]
    return found


def lacks_plan(grant: CreditGrant) -> bool:
    return grant.plan is None and grant.invoice_id is not None


def may_be_over(first: Sequence[CreditGrant], at: datetime) -> bool:
    """Whether some grants of the account have to be ended at `at`, or may have to be."""
    if any(is_over(grant, at) for grant in first):
        return True
    # Of those that await a renewal the end comes later than their place in the order says.
    unread_from = first[-1].expires_at if len(first) > MOST else None
    return unread_from is not None and unread_from <= at


async def expiring(account: AnyAccount, dates: int) -> list[tuple[datetime, int]]:
    """When credits of the account expire if they are not spent, and how many: the first so many dates.

    Fewer, where one date has very many ends of a grace: all that expires on a date is shown, or nothing.
    """
    db = connection()
    most = 2 * dates + 1
    query = (_ENDS.replace("$", "?") if is_sqlite(db) else _ENDS) + f" LIMIT {most}"
    with storage_errors():
        _, found = await db.execute_query(query, [account.id, account.unit])
    credits: Counter[datetime] = Counter()
    for cells in map(tuple, found):
        expires_at = to_time(cells[0])
        usable_until = to_time(cells[1]) if cells[1] else None
        credits[max(expires_at, usable_until or expires_at)] += int(cells[2])
    ends = sorted(credits.items())
    if len(found) == most:  # what was not read ends when the last of these expires, or later
        ends = [each for each in ends if each[0] < expires_at]
    return ends[:dates]


_ENDS = f"""
SELECT expires_at, usable_until, SUM(remaining) FROM credit_grants
WHERE account_id = $1 AND unit = $2 AND {WITH_CREDITS} AND expires_at IS NOT NULL
GROUP BY expires_at, usable_until ORDER BY expires_at"""  # noqa: S608 - constants
