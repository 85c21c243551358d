"""A ticket opens the socket of one invoice, for a while. It is proof of nothing else."""

from __future__ import annotations

import aiohttp
import pytest

from tests.support.paidup import Paidup, next_status

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_a_purchase_comes_with_its_ticket(paidup: Paidup) -> None:
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as socket:
        assert socket.protocol == "paidup.v1"
        assert (await next_status(socket))["status"] == "open"


async def test_a_fresh_ticket_is_to_be_had_by_whose_invoice_it_is(paidup: Paidup) -> None:
    ada, bob = paidup.customer("ada"), paidup.customer("bob")
    purchase = await ada.buy("pro")
    path = f"/api/invoices/{purchase['invoice']}/ticket"
    status, fresh = await ada.call("POST", path)
    assert status == 200
    async with ada.watch(purchase, ticket=fresh["ticket"]) as socket:
        assert (await next_status(socket))["invoice"] == purchase["invoice"]
    status, _ = await bob.call("POST", path)
    assert status == 404


async def test_a_ticket_opens_no_other_invoice(paidup: Paidup) -> None:
    ada, bob = paidup.customer("ada"), paidup.customer("bob")
    adas, bobs = await ada.buy("pro"), await bob.buy("pro")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with bob.watch(adas, ticket=bobs["ticket"]):
            pass
    assert refused.value.status == 403
