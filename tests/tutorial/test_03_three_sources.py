"""Three sources lead to one settlement: each suffices alone, and together they credit once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from paidup.db.models import Invoice
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.paidup import status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_verification_suffices(world: World, stripe_side: StripeSide) -> None:
    """The browser opens its socket, and the server asks Stripe at once. No webhook ever comes."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(purchase) as socket:
        told = await status_with(socket, status="active")
    assert (told["via"], await ada.balance()) == ("verification", 2000)


async def test_the_webhook_suffices(world: World, stripe_side: StripeSide) -> None:
    """The browser watches, but Stripe's API is down: the webhook needs no call."""
    paidup = await world.server()
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(api_down=True)
    async with ada.watch(purchase) as socket:
        await stripe_side.confirm(purchase["client_secret"])
        told = await status_with(socket, status="active")
    assert (told["via"], await ada.balance()) == ("webhook", 2000)


async def test_reconciliation_suffices(world: World, stripe_side: StripeSide) -> None:
    """No browser, no webhook: the reconciler asks about what is still open."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    await Invoice.filter(id=purchase["invoice"]).update(next_check_at=now() - timedelta(seconds=1))
    await paidup.services.reconciler.sweep()
    _, status = await ada.call("GET", f"/api/invoices/{purchase['invoice']}")
    assert (status["via"], await ada.balance()) == ("reconciliation", 2000)


async def test_all_three_together_credit_once(world: World, stripe_side: StripeSide) -> None:
    paidup = await world.server()
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as socket:
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(socket, status="active")
    await paidup.services.reconciler.sweep()

    async def stripe_has_delivered_all() -> bool:
        events = (await stripe_side.look("events"))["events"]
        return all(sent["status"] == "delivered" for event in events for sent in event["deliveries"])

    await wait_until(stripe_has_delivered_all)
    assert await ada.balance() == 2000
