"""Reads the rows of any topic as its messages: for a session's first frame, and for the resync.

The resync compares versions first: of thousands of rows that browsers wait for, few have changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from paidup.db.bulk import select_exceeding
from paidup.realtime.checkout_queries import CHECKOUT_VERSIONS, read_checkouts
from paidup.realtime.hub import ACCOUNTS, CHECKOUTS, INVOICES, Topic
from paidup.realtime.status_queries import BALANCE_VERSIONS, STATUS_VERSIONS, read_balances, read_statuses


async def _invoices(keys: Iterable[str]) -> list[tuple[str, Any]]:
    return [(status.invoice, status) for status in await read_statuses(keys)]


async def _checkouts(keys: Iterable[str]) -> list[tuple[str, Any]]:
    return [(message.checkout, message) for message in await read_checkouts(keys)]


_READERS: dict[Topic[Any, Any], Callable[[Iterable[Any]], Awaitable[list[tuple[Any, Any]]]]] = {
    INVOICES: _invoices,
    ACCOUNTS: read_balances,
    CHECKOUTS: _checkouts,
}
_VERSIONS: dict[Topic[Any, Any], str] = {
    INVOICES: STATUS_VERSIONS,
    ACCOUNTS: BALANCE_VERSIONS,
    CHECKOUTS: CHECKOUT_VERSIONS,
}
TOPICS = tuple(_READERS)


async def read_current(topic: Topic[Any, Any], keys: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Pairs of key and message. A key without a row is left out."""
    return await _READERS[topic](keys)


async def read_newer(topic: Topic[Any, Any], known: Mapping[Any, int]) -> list[tuple[Any, Any]]:
    """The same, of those rows whose version may be beyond the one that is known."""
    newer = await select_exceeding(_VERSIONS[topic], known)
    return await read_current(topic, newer) if newer else []
