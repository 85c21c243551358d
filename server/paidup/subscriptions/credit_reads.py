"""Reads by one statement what GET /api/credits answers from, for the accounts that are asked for together.

Of what is rare, it reads whether there may be any: a payment that the customer waits for, a renewal that is
under way. Only then are there more statements.
"""

# ruff: noqa: S608 - the statement is made of the models' names and of constants, never of a value

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec

from paidup.credits import moves
from paidup.credits.shown_grants import FIRST
from paidup.db.bulk import select_by_keys
from paidup.db.connection import is_sqlite
from paidup.db.instances import columns_of, row_of
from paidup.db.models import NOT_ENDED, Account, CreditGrant
from paidup.domain.entitlements import IN_GOOD_STANDING
from paidup.domain.quotes import Quote
from paidup.runtime.clock import at_unix
from paidup.subscriptions.checkout import PENDING


class AccountCredits(msgspec.Struct, frozen=True):
    """An account and the first of its live grants, of all units, in spending order, as of one moment."""

    account: Account
    grants: list[CreditGrant]
    has_unpaid: bool
    """Whether there are unpaid invoices, one of which the customer may be waiting for."""
    paid_until: list[datetime]
    """Of each subscription that may renew and was ever paid: until when it is paid at least."""

    def may_renew(self, at: datetime) -> bool:
        """Whether a renewal may be under way: a period that was paid is over."""
        return any(end <= at for end in self.paid_until)


async def read_credits(external_ids: Sequence[str]) -> list[AccountCredits | None]:
    """For each of these accounts; None where there is none. Nothing of one that it was merged into."""
    sqlite = is_sqlite()
    found = {cells[-4]: cells async for cells in select_by_keys(_credits_sql(sqlite), external_ids)}
    return [_credits_of(found[each], sqlite) if each in found else None for each in external_ids]


def _credits_of(cells: tuple[Any, ...], sqlite: bool) -> AccountCredits:
    *account, _, grants, unpaid, quotes = cells
    rows = [row_of(CreditGrant, each, sqlite) for each in msgspec.json.decode(grants or b"[]")]
    return AccountCredits(
        account=row_of(Account, account, sqlite),
        grants=sorted(rows, key=moves.spending_order),
        has_unpaid=bool(unpaid),
        paid_until=[_end_of(quote) for quote in msgspec.json.decode(quotes or b"[]") if quote is not None],
    )


def _end_of(quote: str) -> datetime:
    """When the last period ends that this quote bills."""
    parts = msgspec.json.decode(quote, type=Quote).all_parts
    return at_unix(max((part.period_end for part in parts), default=0))


@cache
def _credits_sql(sqlite: bool) -> str:
    """Selects an account's columns, its id at the SaaS, its grants, and what there may be more of."""
    array, each = ("json_group_array", "json_array") if sqlite else ("json_agg", "json_build_array")
    columns = ", ".join(f'a."{name}"' for name in columns_of(Account))
    grant = ", ".join(f'"{name}"' for name in columns_of(CreditGrant))
    pending = ", ".join(f"'{status.value}'" for status in PENDING)
    renewing = ", ".join(f"'{status}'" for status in sorted(IN_GOOD_STANDING | {"incomplete"}))
    quote = "quote" if sqlite else "quote::text"
    return f"""
        SELECT {columns}, a.external_id,
        (SELECT {array}({each}({grant})) FROM
         (SELECT {grant} FROM credit_grants WHERE account_id = a.id AND {FIRST}) AS own),
        EXISTS (SELECT 1 FROM invoices WHERE account_id = a.id AND status IN ({pending})),
        (SELECT {array}((SELECT {quote} FROM invoices WHERE subscription = s.id AND settled_at IS NOT NULL
                         AND quote IS NOT NULL ORDER BY finalized_at DESC LIMIT 1))
         FROM subscriptions AS s WHERE s.account_id = a.id AND s.{NOT_ENDED} AND s.status IN ({renewing}))
        FROM accounts AS a WHERE a.external_id"""
