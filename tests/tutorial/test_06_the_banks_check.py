"""3DS: the bank asks the customer. If it passes, the plan goes live; if not, they may try another card."""

from __future__ import annotations

import pytest

from tests.support.paidup import Paidup, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ASKS = "pm_card_authenticationRequired"


async def test_passed_means_active(paidup: Paidup, stripe_side: StripeSide) -> None:
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    intent = await stripe_side.confirm(purchase["client_secret"], ASKS)
    assert intent["status"] == "requires_action"
    async with ada.watch(purchase) as socket:
        await status_with(socket, stage="action_required")
        await stripe_side.authenticate(purchase["client_secret"])
        assert (await status_with(socket, status="active"))["balance"] == 2000


async def test_failed_says_why_and_another_card_still_activates(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S07: failed is this attempt, not the end."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"], ASKS)

    async def says_why() -> bool:
        _, status = await ada.call("GET", f"/api/invoices/{purchase['invoice']}")
        return bool(status["error"]["code"] == "payment_intent_authentication_failure")

    async with ada.watch(purchase) as socket:
        await stripe_side.authenticate(purchase["client_secret"], "fail")
        await status_with(socket, status="failed")
        await wait_until(says_why)
        await stripe_side.confirm(purchase["client_secret"], "pm_card_visa")
        assert (await status_with(socket, status="active"))["error"] is None
    assert await ada.balance() == 2000
