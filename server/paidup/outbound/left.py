"""How many deliveries are left: those that are pending, and those that were given up."""

from __future__ import annotations

from paidup.db.connection import connection
from paidup.db.outbound_models import DeliveryState

LEFT = (DeliveryState.PENDING, DeliveryState.DEAD)


async def count_left() -> dict[tuple[int, DeliveryState], int]:
    """By endpoint and state. Read from the indexes of these states: most deliveries have been made."""
    counts: dict[tuple[int, DeliveryState], int] = {}
    for state in LEFT:
        _, found = await connection().execute_query(_COUNTS.format(state=state.value))
        counts |= {(cells[0], state): int(cells[1]) for cells in map(tuple, found)}
    return counts


_COUNTS = "SELECT endpoint_id, count(*) FROM event_deliveries WHERE state = '{state}' GROUP BY endpoint_id"
