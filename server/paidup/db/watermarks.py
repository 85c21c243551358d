"""Claims on watermark rows, by which one of many processes does a piece of work."""

from __future__ import annotations

from datetime import datetime

from tortoise.exceptions import IntegrityError

from paidup.db.models import Watermark


async def claim_watermark(name: str, moved_before: datetime, moved_at: datetime, initial: str = "") -> bool:
    """Set the row's `moved_at`, if it is `moved_before` or earlier; make the row where there is none.

    True for one of all processes that claim at the same time.
    """
    free = Watermark.filter(name=name, moved_at__lte=moved_before)
    if await free.update(moved_at=moved_at):
        return True
    if await Watermark.exists(name=name):
        return False
    try:
        await Watermark.create(name=name, value=initial, moved_at=moved_at)
    except IntegrityError:
        return False  # another process has made it at the same moment
    return True
