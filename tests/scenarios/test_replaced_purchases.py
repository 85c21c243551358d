"""A purchase that was given up for another one: the first tab learns which one was paid instead."""

from __future__ import annotations

from tests.conftest import World
from tests.support.paidup import next_status, status_with
from tests.support.stripe_sandbox import StripeSide


async def test_a_void_purchase_names_the_one_that_was_paid_instead(
    world: World, stripe_side: StripeSide
) -> None:
    """S43: not before it is paid, not for a top-up, and not another customer's."""
    paidup = await world.server(webhooks=False)
    ada, eve = paidup.customer("ada"), paidup.customer("eve")
    first = await ada.buy("basic")
    path = f"/api/invoices/{first['invoice']}"
    async with ada.watch(first) as socket:
        await next_status(socket)
        second = await ada.buy("pro")
        told = await status_with(socket, status="void")
    assert told["replaced_by"] is None
    _, top_up = await ada.call("POST", "/api/top-ups", {"plan": "extra"})
    of_eve = await eve.buy("pro")
    for paid in (top_up, of_eve):
        await stripe_side.confirm(paid["client_secret"])
        await paidup.services.verification.verify(paid["invoice"])
    assert (await ada.call("GET", path))[1]["replaced_by"] is None
    await stripe_side.confirm(second["client_secret"])
    await paidup.services.verification.verify(second["invoice"])
    _, now = await ada.call("GET", path)
    assert (now["status"], now["replaced_by"]) == ("void", second["invoice"])
    async with ada.watch(first) as socket:
        assert (await next_status(socket))["replaced_by"] == second["invoice"]
    _, paid = await ada.call("GET", f"/api/invoices/{second['invoice']}")
    assert (paid["status"], paid["replaced_by"]) == ("active", None)
