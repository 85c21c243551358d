"""Checks the plans file's units against those of the accounts: which one is the default must not change.

The database has no name for the default unit. So a unit that accounts have cannot become the default one,
nor the default one become another, and one that is taken out of the plans file could not be spent.
"""

from __future__ import annotations

from paidup.db.connection import connection, is_sqlite, storage_errors
from paidup.db.models import LedgerEntry, Watermark
from paidup.domain.catalog import Catalogue
from paidup.domain.units import DEFAULT_NAME
from paidup.runtime.clock import now

NAME = "default_unit"
"""The row that keeps what the default unit was called last. None while `units` never named one."""
_KEPT = {
    "sqlite": "SELECT DISTINCT u.key AS unit FROM accounts a, json_each(a.unit_balances) u"
    " WHERE a.unit_balances IS NOT NULL",
    "postgres": "SELECT DISTINCT jsonb_object_keys(unit_balances) AS unit FROM accounts"
    " WHERE unit_balances IS NOT NULL",
}


async def check_units(catalogue: Catalogue) -> list[str]:
    """What is wrong with the plans file's `units`, given what accounts have. Raises StorageUnavailable."""
    default, *others = catalogue.units
    with storage_errors():
        known = await Watermark.get_or_none(name=NAME)
        if known is None and catalogue.units == (DEFAULT_NAME,):
            return []
        # Not named before, it was called as it is without `units`, unless nobody has credits yet.
        before = known.value if known else DEFAULT_NAME if await LedgerEntry.exists() else default
        rows = await connection().execute_query_dict(_KEPT["sqlite" if is_sqlite() else "postgres"])
        problems = [
            f"`units`: accounts have {unit}, so name it there, and not first: {default} is the default unit"
            for unit in sorted(str(row["unit"]) for row in rows)
            if unit not in others
        ]
        if before in others:
            problems.append(f"`units`: {before} was the default unit: name it first, or not at all")
        if not problems:
            await Watermark.update_or_create({"value": default, "moved_at": now()}, name=NAME)
    return problems
