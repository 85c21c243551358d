"""Scans of Stripe's lists: newest first, page by page, a few pages a round, going on where it stopped.

Owns the watermark of each scan, and the claim by which one of many reconcilers does a round.
A scan that has come to its end begins again from where the last one began, less a lookback:
what Stripe shows late is seen all the same, and seeing something twice costs nothing.
Refuses to know what is scanned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
from tortoise.exceptions import IntegrityError

from paidup.clock import now
from paidup.db.models import Watermark
from paidup.errors import StripeRefused, StripeUnavailable

PAGES_A_ROUND = 5


class Scan(msgspec.Struct, frozen=True):
    """What is scanned how. Times in seconds; `horizon_s` is how far back the first scan goes.

    `take` handles the page that begins at `since` beyond the id `after`, and returns how many
    things it found, the last id, and whether there is more.
    """

    name: str
    every_s: float
    lookback_s: int
    horizon_s: int
    take: Callable[[int, str | None], Awaitable[tuple[int, str | None, bool]]]


class Progress(msgspec.Struct, frozen=True):
    """Unix seconds: everything since `since` is being looked at, by a scan that began at `began`."""

    since: int
    began: int
    after: str | None = None


async def scan(what: Scan) -> int:
    """One round, if it is due and nobody else does it. How many things it found."""
    at = now()
    progress = await _claim(what, at)
    if progress is None:
        return 0
    found = 0
    go_on_at_once = at - timedelta(seconds=what.every_s)
    for _ in range(PAGES_A_ROUND):
        try:
            taken, last, has_more = await what.take(progress.since, progress.after)
        except StripeRefused:
            if progress.after is None:
                raise
            # What it stood on has left the list (delivered meanwhile, or too old): from the top again.
            await _save(what, msgspec.structs.replace(progress, after=None), go_on_at_once)
            return found
        except StripeUnavailable:
            await _save(what, progress, go_on_at_once)
            raise
        found += taken
        if not has_more or last is None:
            # The end: the next scan starts where this one began, and looks back from there.
            progress = Progress(since=progress.began - what.lookback_s, began=0)
            await _save(what, progress, at)
            return found
        progress = msgspec.structs.replace(progress, after=last)
        await _save(what, progress, at)
    await _save(what, progress, go_on_at_once)
    return found


async def _claim(what: Scan, at: datetime) -> Progress | None:
    unix = int(at.timestamp())
    row = await Watermark.get_or_none(name=what.name)
    if row is None:
        first = Progress(since=unix - what.horizon_s, began=unix)
        try:
            await Watermark.create(name=what.name, value=_encode(first), moved_at=at)
        except IntegrityError:
            return None  # somebody else began it this very moment
        return first
    free = Watermark.filter(
        name=what.name, moved_at=row.moved_at, moved_at__lte=at - timedelta(seconds=what.every_s)
    )
    if not await free.update(moved_at=at):
        return None
    progress = msgspec.json.decode(row.value, type=Progress)
    return progress if progress.began else msgspec.structs.replace(progress, began=unix)


async def _save(what: Scan, progress: Progress, moved_at: datetime) -> None:
    await Watermark.filter(name=what.name).update(value=_encode(progress), moved_at=moved_at)


def _encode(progress: Progress) -> str:
    return msgspec.json.encode(progress).decode()
