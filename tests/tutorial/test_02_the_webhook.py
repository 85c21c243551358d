"""Stripe tells the server: believed because it is signed, counted once however often it comes."""

from __future__ import annotations

import json

import pytest

from tests.conftest import World
from tests.support.paidup import Paidup
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_the_webhook_credits_a_customer_who_closed_his_browser(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    await wait_until(ada.balance)
    _, status = await ada.call("GET", f"/api/invoices/{purchase['invoice']}")
    assert (status["status"], status["via"], status["balance"]) == ("active", "webhook", 2000)


async def test_the_same_event_again_credits_nothing_more(world: World, stripe_side: StripeSide) -> None:
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    event = json.dumps(await stripe_side.event("invoice.paid", purchase["invoice"])).encode()
    answers = [await paidup.webhook(event) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert await ada.balance() == 2000


async def test_a_webhook_that_stripe_did_not_sign_is_refused(world: World, stripe_side: StripeSide) -> None:
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    event = json.dumps(await stripe_side.event("invoice.paid", purchase["invoice"])).encode()
    status, problem = await paidup.webhook(event, signature="t=1,v1=forged")
    assert (status, problem["title"]) == (400, "The delivery was refused")
    assert await ada.balance() == 0
