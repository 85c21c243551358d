"""Scans Stripe's lists, newest first: a few pages a round, going on where the last round stopped.

Where webhooks are known to arrive, a scan only confirms that, at its pace `at_rest_s`. Otherwise, and
after each start of a process, it runs every `every_s`. Where the month's reads are used up, it stops.

A watermark row holds the progress of each scan, and is the claim by which one of many reconcilers
runs a round. A scan that has reached its end starts again from where the last one began, less a
lookback: objects that Stripe lists late are found as well, and finding one twice costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from enum import Enum

import msgspec

from paidup.db.models import Watermark
from paidup.db.watermarks import claim_watermark
from paidup.errors import StripeRefused, StripeUnavailable
from paidup.runtime.clock import now

PAGES_A_ROUND = 5


class Pace(Enum):
    """How often the scans run now."""

    OFTEN = "often"
    AT_REST = "at rest"
    STOPPED = "stopped"


class Scan(msgspec.Struct, frozen=True):
    """What to scan, and how. Times in seconds; `horizon_s` is how far back the first scan goes.

    `handle_page` handles the page of objects created since `since` that begins after the id `after`.
    It returns how many new objects it found, the last id, and whether there are more pages.
    """

    name: str
    every_s: float
    at_rest_s: float
    lookback_s: int
    horizon_s: int
    handle_page: Callable[[int, str | None], Awaitable[tuple[int, str | None, bool]]]


class Progress(msgspec.Struct, frozen=True):
    """Unix seconds: a scan that began at `began` covers everything created since `since`."""

    since: int
    began: int
    after: str | None = None


async def scan(what: Scan, pace: Pace = Pace.OFTEN) -> int:
    """Run one round, if it is due and no other process runs it. How many new objects it found."""
    if pace is Pace.STOPPED:
        return 0
    at = now()
    progress = await _claim(what, at, what.every_s if pace is Pace.OFTEN else what.at_rest_s)
    if progress is None:
        return 0
    found = 0
    continue_at_once = at - timedelta(seconds=what.at_rest_s)
    for _ in range(PAGES_A_ROUND):
        try:
            new, last, has_more = await what.handle_page(progress.since, progress.after)
        except StripeRefused:
            if progress.after is None:
                raise
            # The object that the page begins after has left the list (delivered, or too old): start over.
            await _save(what, msgspec.structs.replace(progress, after=None), continue_at_once)
            return found
        except StripeUnavailable:
            await _save(what, progress, continue_at_once)
            raise
        found += new
        if not has_more or last is None:
            # The end: the next scan starts where this one began, less the lookback.
            progress = Progress(since=progress.began - what.lookback_s, began=0)
            await _save(what, progress, at)
            return found
        progress = msgspec.structs.replace(progress, after=last)
        await _save(what, progress, at)
    await _save(what, progress, continue_at_once)
    return found


async def _claim(what: Scan, at: datetime, every_s: float) -> Progress | None:
    unix = int(at.timestamp())
    first = Progress(since=unix - what.horizon_s, began=unix)
    due_since = at - timedelta(seconds=every_s)
    if not await claim_watermark(what.name, moved_before=due_since, moved_at=at, initial=_encode(first)):
        return None
    row = await Watermark.get(name=what.name)
    progress = msgspec.json.decode(row.value, type=Progress)
    return progress if progress.began else msgspec.structs.replace(progress, began=unix)


async def _save(what: Scan, progress: Progress, moved_at: datetime) -> None:
    await Watermark.filter(name=what.name).update(value=_encode(progress), moved_at=moved_at)


def _encode(progress: Progress) -> str:
    return msgspec.json.encode(progress).decode()
