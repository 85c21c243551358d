"""The process ends anywhere between Stripe's answer and the row of a new session: no page is left open."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from paidup.db.models import Account, CheckoutSession
from paidup.stripe_api.checkout_sessions import Ui
from paidup.subscriptions.session_purchases import WantedSession
from tests.schedules.shop import Shop, a_shop
from tests.support.cancel_at_await import cut_off

RETURN_URL = "https://app.example.test/activate?session_id={CHECKOUT_SESSION_ID}"


def page_for(plan: str) -> WantedSession:
    return WantedSession(plan, plan == "extra", Ui.HOSTED, RETURN_URL)


async def open_page(shop: Shop, plan: str) -> str:
    account, _ = await Account.get_or_create(external_id="ada")
    return (await shop.pages.open(account, page_for(plan))).shown.id


async def open_at_stripe(shop: Shop) -> list[str]:
    listed = await shop.api("GET", "checkout/sessions", {"status": "open"})
    return [each["id"] for each in listed["data"]]


async def test_a_session_whose_process_died_is_given_out_again_or_expired(sqlite_template: Path) -> None:
    """S20, S39: the next request for the same gets it; one for another plan has it expired."""
    lost, place = 0, 0
    async with a_shop(sqlite_template) as shop:
        while not await died_at(shop, place):
            if len(await open_at_stripe(shop)) > await CheckoutSession.all().count():
                lost += 1
                other = await open_page(shop, "pro")
                assert await open_at_stripe(shop) == [other], place
                await died_at(shop, place)
                assert await open_at_stripe(shop) == [await open_page(shop, "basic")], place
            place += 1
    assert lost > 1, "no place was between Stripe's answer and the row"


async def test_a_lost_session_is_expired_where_the_next_purchase_is_by_card(sqlite_template: Path) -> None:
    """S20, S39: `POST /api/subscriptions` and `POST /api/top-ups` leave no page open either."""
    async with a_shop(sqlite_template) as shop:
        for plan, buy in (("basic", shop.checkout.buy), ("extra", shop.checkout.top_up)):
            await lose_page(shop, plan)
            purchase = await buy(await Account.get(external_id="ada"), plan)
            assert (purchase.created, await open_at_stripe(shop)) == (True, [])


async def lose_page(shop: Shop, plan: str) -> None:
    """The process ends at the first place between Stripe's answer and the row."""
    for place in count():
        assert not await died_at(shop, place, plan), "no place was between Stripe's answer and the row"
        if len(await open_at_stripe(shop)) > await CheckoutSession.all().count():
            return


async def died_at(shop: Shop, place: int, plan: str = "basic") -> bool:
    """Whether the request had ended before it came to this place, where its process ends."""
    shop.reset(place)
    return await cut_off(open_page(shop, plan), place) is not None
