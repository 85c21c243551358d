"""Credits are spent once for each key, and "not enough" is not said to somebody who has just paid."""

from __future__ import annotations

import pytest

from tests.support.paidup import Paidup, status_with
from tests.support.stripe_sandbox import StripeSide

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_credits_are_spent_once_for_each_key(paidup: Paidup, stripe_side: StripeSide) -> None:
    """The caller chooses the key, so a request whose answer was lost can be repeated."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(purchase) as socket:
        await status_with(socket, status="active")
    first = await ada.spend(10, "picture-1")
    again = await ada.spend(10, "picture-1")
    assert first == again == (200, {"balance": 1990, "credits": 10, "key": "picture-1"})
    assert await ada.balance() == 1990


async def test_without_credits_the_answer_is_402(paidup: Paidup) -> None:
    status, problem = await paidup.customer("ada").spend(10, "picture-1")
    assert (status, problem["balance"], problem["needed"]) == (402, 0, 10)
    assert problem["activating"] is None


async def test_while_a_payment_is_activated_the_answer_says_how_to_watch_it(paidup: Paidup) -> None:
    """S03: a screen can go on from there."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    status, problem = await ada.spend(10, "picture-1")
    assert status == 402
    assert problem["activating"]["invoice"] == purchase["invoice"]
    async with ada.watch(problem["activating"]) as socket:
        assert (await status_with(socket, status="open"))["invoice"] == purchase["invoice"]
