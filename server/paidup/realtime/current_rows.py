"""Reads the rows of any topic as its messages: for a session's first frame, and for the resync."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from paidup.realtime.checkout_queries import read_checkouts
from paidup.realtime.hub import ACCOUNTS, CHECKOUTS, INVOICES, Topic
from paidup.realtime.status_queries import read_balances, read_statuses


async def _invoices(keys: Iterable[str]) -> list[tuple[str, Any]]:
    return [(status.invoice, status) for status in await read_statuses(keys)]


async def _checkouts(keys: Iterable[str]) -> list[tuple[str, Any]]:
    return [(message.checkout, message) for message in await read_checkouts(keys)]


_READERS: dict[Topic[Any, Any], Callable[[Iterable[Any]], Awaitable[list[tuple[Any, Any]]]]] = {
    INVOICES: _invoices,
    ACCOUNTS: read_balances,
    CHECKOUTS: _checkouts,
}
TOPICS = tuple(_READERS)


async def read_current(topic: Topic[Any, Any], keys: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Pairs of key and message. A key without a row is left out."""
    return await _READERS[topic](keys)
