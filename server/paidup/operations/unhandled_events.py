"""The stored events of types that Paidup does not handle, as `paidup explain` and the overview show them."""

from __future__ import annotations

from datetime import datetime, timedelta

from paidup.db.connection import is_sqlite
from paidup.db.models import UNHANDLED, StripeEvent
from paidup.db.unit_of_work import read_many

SHOWN_FOR = timedelta(days=7)
"""How long they are shown."""
AMONG_NEWEST = 20_000
"""Among how many of them at most a text is looked for: the payload of each is read for it."""


async def unhandled_events(at: datetime, most: int) -> list[StripeEvent]:
    """The newest of the last days."""
    return await read_many(
        StripeEvent, f"{UNHANDLED} AND received_at > $1 {_NEWEST_FIRST} LIMIT {most}", at - SHOWN_FOR
    )


async def unhandled_about(text: str, at: datetime, most: int) -> list[StripeEvent]:
    """The newest of the last days in whose payload this text is, in quotes."""
    position = "instr" if is_sqlite() else "strpos"
    older = f"SELECT received_at FROM stripe_events WHERE {UNHANDLED} {_NEWEST_FIRST}"  # noqa: S608 - constants
    since = f"received_at > $1 AND received_at > COALESCE(({older} LIMIT 1 OFFSET {AMONG_NEWEST}), $1)"
    clause = f"{UNHANDLED} AND {since} AND {position}(payload, $2) > 0 {_NEWEST_FIRST} LIMIT {most}"
    return await read_many(StripeEvent, clause, at - SHOWN_FOR, f'"{text}"')


_NEWEST_FIRST = "ORDER BY received_at DESC"
