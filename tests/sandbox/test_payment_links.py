"""Payment Links: each visit opens a session; what the address adds; what is made, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from .rig import Json, Sandbox, check_shape
from .shop import Shop


@pytest.fixture
def shop(sandbox_bare: Sandbox) -> Shop:
    return Shop(sandbox_bare)


async def _link(shop: Shop, **more: Any) -> Any:
    """A link, to a one-time price unless it is said otherwise."""
    if "line_items" not in more:
        more["line_items"] = [{"price": await shop.once(), "quantity": 1}]
    return await shop.sandbox.v1.payment_links.create_async(more)


async def _visit(shop: Shop, link: Any, query: str = "") -> Any:
    """Open it as a customer does; the session that this makes."""
    async with shop.sandbox.http.get(f"{link.url}?{query}") as response:
        assert response.status == 200
    (session,) = (await shop.sessions.list_async({"payment_link": link.id, "limit": 1})).data
    return session


async def test_one_payment_may_have_neither_customer_nor_invoice(shop: Shop) -> None:
    """https://docs.stripe.com/payment-links/customize: `customer_creation` is `if_required`."""
    link = await _link(shop, metadata={"campaign": "spring"})
    assert link.url.startswith(shop.sandbox.url + "/test_")
    session = await _visit(shop, link, "client_reference_id=account-7&prefilled_email=a@b.example")
    shown: Json = await shop.read(session)
    assert (shown["payment_link"], shown["client_reference_id"]) == (link.id, "account-7")
    assert (shown["metadata"], shown["mode"]) == ({"campaign": "spring"}, "payment")
    async with shop.sandbox.http.get(session.url) as response:
        assert 'value="a@b.example"' in await response.text()
    paid = await shop.pay(session)
    assert (paid["customer"], paid["invoice"], paid["payment_status"]) == (None, None, "paid")
    assert paid["redirect_to"] is None, "it confirms on its own page"


@pytest.mark.parametrize("reference", ["", "user/42", "x" * 201, "a%20b"])
async def test_a_wrong_reference_is_left_out(shop: Shop, reference: str) -> None:
    """Without a word: https://docs.stripe.com/payment-links/url-parameters"""
    session = await _visit(shop, await _link(shop), f"client_reference_id={reference}&prefilled_email=nobody")
    assert session.client_reference_id is None
    async with shop.sandbox.http.get(session.url) as response:
        assert "nobody" not in await response.text()


async def test_it_goes_on_to_the_shop(shop: Shop) -> None:
    """With the session's id, and the metadata of link and payment."""
    link = await _link(
        shop,
        after_completion={
            "type": "redirect",
            "redirect": {"url": "https://saas.example/{CHECKOUT_SESSION_ID}"},
        },
        payment_intent_data={"metadata": {"account": "7"}},
        invoice_creation={"enabled": True},
    )
    check_shape((await shop.sandbox.raw("GET", f"/v1/payment_links/{link.id}?expand[]=line_items")).body)
    session = await _visit(shop, link)
    paid = await shop.pay(session)
    assert paid["redirect_to"] == f"https://saas.example/{session.id}"
    shown = await shop.read(session, "payment_intent", "invoice")
    assert shown["payment_intent"]["metadata"] == {"account": "7"}
    assert shown["invoice"]["status"] == "paid"


async def test_a_recurring_price_subscribes(shop: Shop) -> None:
    """Each payment makes a new customer, even of one e-mail address."""
    plan = (await shop.sandbox.plan()).id
    link = await _link(
        shop,
        line_items=[{"price": plan, "quantity": 1}],
        subscription_data={"metadata": {"account": "7"}},
    )
    paid = [await shop.pay(await _visit(shop, link)) for _ in range(2)]
    assert len({one["customer"] for one in paid}) == len({one["subscription"] for one in paid}) == 2
    made = await shop.sandbox.v1.subscriptions.retrieve_async(paid[0]["subscription"])
    assert made.metadata.account == "7"
    with pytest.raises(stripe.InvalidRequestError, match="does not contain any recurring"):
        await _link(shop, line_items=[{"price": plan, "quantity": 1}], customer_creation="always")


async def test_a_link_that_is_used_up_or_deactivated(shop: Shop) -> None:
    link = await _link(shop, restrictions={"completed_sessions": {"limit": 1}})
    open_still = await _visit(shop, link)
    await shop.pay(await _visit(shop, link))
    other = await _link(shop)
    await shop.sandbox.v1.payment_links.update_async(other.id, {"active": False})
    for closed in (link, other):
        async with shop.sandbox.http.get(closed.url) as response:
            assert "has been deactivated" in await response.text()
    assert (await shop.read(open_still))["status"] == "open"
