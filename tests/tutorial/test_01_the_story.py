"""The story in eight lines: start here."""

from __future__ import annotations

from tests.support.paidup import Paidup, status_with
from tests.support.stripe_sandbox import StripeSide


async def test_a_confirmed_payment_becomes_credits_and_the_waiting_browser_is_told(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"], "pm_card_visa")
    async with ada.watch(purchase) as socket:
        told = await status_with(socket, status="active")
    assert told["credits_granted"] == 2000
    assert await ada.balance() == 2000
