"""Goes through a list of Stripe's page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice, repeat
from typing import Protocol, TypeVar

from paidup.stripe_api.schemas import ListOf


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Listed)


async def pages(
    fetch: Callable[[str | None], Awaitable[ListOf[T]]], max_pages: int | None = None
) -> AsyncIterator[ListOf[T]]:
    """Every page of a list, at most `max_pages`. `fetch` reads the page that begins after an object's id."""
    after: str | None = None
    for _ in islice(repeat(None), max_pages):
        page = await fetch(after)
        yield page
        if not page.has_more or not page.data:
            return
        after = page.data[-1].id


async def joined(fetch: Callable[[str | None], Awaitable[ListOf[T]]], max_pages: int) -> ListOf[T]:
    """What up to `max_pages` pages list, as one. `has_more`: whether there is more than that."""
    found: list[T] = []
    async for page in pages(fetch, max_pages):
        found.extend(page.data)
    return ListOf(found, page.has_more)
