"""S08: one pending payment is one subscription, however often the button is pressed."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.paidup import Paidup, status_with
from tests.support.stripe_sandbox import StripeSide

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_a_double_click_makes_one_payment(paidup: Paidup, stripe_side: StripeSide) -> None:
    ada = paidup.customer("ada")
    first, second = await asyncio.gather(ada.buy("pro"), ada.buy("pro"))
    assert (first["invoice"], first["client_secret"]) == (second["invoice"], second["client_secret"])
    assert len((await stripe_side.api("GET", "subscriptions?status=all"))["data"]) == 1


async def test_a_reload_gives_the_same_payment_again(paidup: Paidup) -> None:
    ada = paidup.customer("ada")
    before, after = await ada.buy("pro"), await ada.buy("pro")
    assert (before["invoice"], before["client_secret"]) == (after["invoice"], after["client_secret"])


async def test_both_tabs_are_told(paidup: Paidup, stripe_side: StripeSide) -> None:
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as one, ada.watch(purchase) as other:
        await stripe_side.confirm(purchase["client_secret"])
        told = await asyncio.gather(*(status_with(tab, status="active") for tab in (one, other)))
    assert [status["balance"] for status in told] == [2000, 2000]
