"""How many deliveries are left: those that are pending, and those that were given up."""

# ruff: noqa: S608 - a statement of constants

from __future__ import annotations

from paidup.db.connection import connection
from paidup.db.outbound_models import DeliveryState

LEFT = (DeliveryState.PENDING, DeliveryState.DEAD)
COUNTED = 10_000
"""How many of an endpoint and state are counted at most: of a long backlog, no more is read."""


async def count_left() -> dict[tuple[int, DeliveryState], int]:
    """By endpoint and state. Read from the indexes of these states: most deliveries have been made."""
    counts: dict[tuple[int, DeliveryState], int] = {}
    for state in LEFT:
        first = f"state = '{state.value}' AND endpoint_id = event_endpoints.id LIMIT {COUNTED}"
        counted = f"SELECT 1 FROM event_deliveries WHERE {first}"
        query = f"SELECT id, (SELECT count(*) FROM ({counted}) AS counted) FROM event_endpoints"
        _, found = await connection().execute_query(query)
        counts |= {(cells[0], state): int(cells[1]) for cells in map(tuple, found) if cells[1]}
    return counts
