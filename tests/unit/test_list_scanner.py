"""Scans of Stripe's lists go on where they stopped, whatever stopped them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from paidup.db.models import Watermark
from paidup.errors import StripeError, StripeRefused, StripeUnavailable
from paidup.reconciliation.list_scanner import PAGES_A_ROUND, Pace, Scan, scan
from paidup.runtime.clock import now

pytestmark = pytest.mark.usefixtures("database")

PAGES = PAGES_A_ROUND + 2


class Listing:
    """A list of `PAGES` pages, the last id of each being its number. Fails as told, once."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.failure: StripeError | None = None

    @property
    def what(self) -> Scan:
        return Scan("some_list", 60, 5400, 3600, 86400, self.take)

    async def take(self, _: int, after: str | None) -> tuple[int, str | None, bool]:
        self.asked.append(after)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        page = int(after or 0) + 1
        return 1, str(page), page < PAGES


async def test_a_scan_takes_a_few_pages_a_round_and_goes_on_at_once() -> None:
    """S20: then it rests until its time comes again."""
    listing = Listing()
    assert [await scan(listing.what) for _ in range(3)] == [PAGES_A_ROUND, 2, 0]
    assert listing.asked == [None, *(str(page) for page in range(1, PAGES))]


async def test_a_scan_that_stood_on_what_has_left_the_list_begins_again() -> None:
    """S20: an event that was delivered meanwhile, or grew too old, must not stop every scan after it."""
    listing = Listing()
    await scan(listing.what)
    listing.failure = StripeRefused("No such event", "resource_missing", 404)
    assert [await scan(listing.what) for _ in range(3)] == [0, PAGES_A_ROUND, 2]
    assert listing.asked.count(None) == 2


async def test_a_scan_that_finds_stripe_away_goes_on_as_soon_as_it_is_back() -> None:
    """S34: it neither loses its place nor waits out its pace."""
    listing = Listing()
    await scan(listing.what)
    listing.failure = StripeUnavailable("away")
    with pytest.raises(StripeUnavailable):
        await scan(listing.what)
    assert await scan(listing.what) == 2


async def test_a_first_page_that_is_refused_is_an_error() -> None:
    """Nothing to begin again from: the log must show it."""
    listing = Listing()
    listing.failure = StripeRefused("Invalid types")
    with pytest.raises(StripeRefused):
        await scan(listing.what)


async def test_a_scan_has_two_paces_and_may_be_stopped() -> None:
    """At rest it waits an hour and a half instead of a minute; a stopped one asks nothing."""
    listing = Listing()
    while await scan(listing.what):
        pass
    await Watermark.all().update(moved_at=now() - timedelta(minutes=5))
    assert await scan(listing.what, Pace.AT_REST) == 0
    assert await scan(listing.what, Pace.STOPPED) == 0
    assert await scan(listing.what, Pace.OFTEN) == PAGES_A_ROUND
    assert await scan(listing.what, Pace.AT_REST) == 2, "more pages: at once, at either pace"
    await Watermark.all().update(moved_at=now() - timedelta(minutes=91))
    assert await scan(listing.what, Pace.STOPPED) == 0
    assert await scan(listing.what, Pace.AT_REST) == PAGES_A_ROUND
