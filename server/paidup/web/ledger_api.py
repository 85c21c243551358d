"""The customer's ledger: a page of it, and as CSV for a spreadsheet. docs/api.md describes both."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from paidup.credits.reservations import key_of
from paidup.db.connection import storage_errors
from paidup.db.models import LedgerEntry
from paidup.domain.catalog import Catalogue
from paidup.errors import InvalidInput
from paidup.web.dependencies import current_account, get_services
from paidup.web.http import json_response, whole_number

ENTRIES_PER_PAGE = 50
MAX_ENTRIES_PER_PAGE = 100
CSV_ENTRIES = 10_000
"""How many entries one file has. A longer ledger goes on in the next one."""
READ_AT_ONCE = 500
COLUMNS = ("id", "at", "kind", "credits", "balance", "reason", "key")
UNIT_COLUMN = "unit"
"""Only where the plans file names several."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins so for a formula, and runs it: OWASP, CSV Injection."""


async def entries(request: Request) -> Response:
    """GET /api/account/entries: a page of the customer's ledger, newest first."""
    own = await current_account(request)
    limit = whole_number(request, "limit")
    if limit is None:
        limit = ENTRIES_PER_PAGE
    if not 1 <= limit <= MAX_ENTRIES_PER_PAGE:
        raise InvalidInput(f"`limit` is a number from 1 to {MAX_ENTRIES_PER_PAGE}.")
    # `before` is the older name.
    after, before = whole_number(request, "starting_after"), whole_number(request, "before")
    if after is not None and before is not None:
        raise InvalidInput("Please send `starting_after` without `before`.")
    rows = await _read(own.id, before if after is None else after, limit + 1)
    catalogue = get_services(request).catalogue
    shown = [_shown(row, catalogue) for row in rows[:limit]]
    return json_response({"entries": shown, "has_more": len(rows) > limit})


async def entries_csv(request: Request) -> Response:
    """GET /api/account/entries.csv: the ledger as a file, newest first, with a `Link` to the next one."""
    own = await current_account(request)
    after = whole_number(request, "starting_after")
    first = await _read(own.id, after, READ_AT_ONCE)  # a refusal is an answer of its own, not half a file
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": 'attachment; filename="ledger.csv"',
        "X-Content-Type-Options": "nosniff",
    }
    if (last := await _last_of_file(own.id, after)) is not None:
        path = f"{request.scope.get('root_path', '')}/api/account/entries.csv"
        headers["Link"] = f'<{path}?starting_after={last}>; rel="next"'
    lines = _lines(own.id, first, get_services(request).catalogue)
    media_type = "text/csv; charset=utf-8; header=present"
    return StreamingResponse(lines, headers=headers, media_type=media_type)


async def _last_of_file(account_id: int, after: int | None) -> int | None:
    """The last entry of this file, if more follow it."""
    query = LedgerEntry.filter(account_id=account_id)
    if after is not None:
        query = query.filter(id__lt=after)
    with storage_errors():
        beyond = await query.order_by("-id").offset(CSV_ENTRIES - 1).limit(2).values_list("id", flat=True)
    return int(str(beyond[0])) if len(beyond) == 2 else None


async def _lines(account_id: int, rows: list[LedgerEntry], catalogue: Catalogue) -> AsyncIterator[str]:
    columns = (*COLUMNS, UNIT_COLUMN) if catalogue.named_units else COLUMNS
    yield _to_csv([columns])
    left = CSV_ENTRIES
    while rows:
        shown = [_shown(row, catalogue) for row in rows]
        yield _to_csv([[_cell(row[name]) for name in columns] for row in shown])
        left -= len(rows)
        if len(rows) < READ_AT_ONCE or not left:
            return
        rows = await _read(account_id, rows[-1].id, min(left, READ_AT_ONCE))


async def _read(account_id: int, after: int | None, limit: int) -> list[LedgerEntry]:
    query = LedgerEntry.filter(account_id=account_id)
    if after is not None:
        query = query.filter(id__lt=after)
    with storage_errors():
        return await query.order_by("-id").limit(limit)


def _shown(row: LedgerEntry, catalogue: Catalogue) -> dict[str, Any]:
    named = {UNIT_COLUMN: catalogue.unit_name(row.unit)} if catalogue.named_units else {}
    return {
        "id": row.id,
        "kind": row.kind,
        "credits": row.credits,
        "balance": row.balance_after,
        "reason": row.reason,
        "key": key_of(row),
        "at": row.created_at,
        **named,
    }


def _to_csv(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


ROUTES = [
    Route("/api/account/entries", entries, methods=["GET"]),
    Route("/api/account/entries.csv", entries_csv, methods=["GET"]),
]
