"""A restricted key with the permissions that docs/stripe.md lists, and no other, is enough."""

from __future__ import annotations

from paidup.stripe_api.permissions import PERMISSIONS
from paidup_demo.sandbox.restricted_keys import RESOURCES
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import a_life


async def test_a_whole_life_with_a_restricted_key(world: World) -> None:
    """Purchase, top-up, change, renewal, refund, dispute, cancellation, and the scans of Stripe's lists."""
    names = [f"{RESOURCES[one.path.split('/')[2]]}_{one.access}" for one in PERMISSIONS]
    made = await world.stripe_side.control("restricted_keys", {"permissions": names})
    life = await a_life(world, stripe_secret_key=made["key"])
    bought = await life.buy("basic")
    topped_up = await life.top_up()
    status, preview = await life.post("/api/subscriptions/preview", plan="pro")
    assert (status, preview["card"]) == (200, {"brand": "visa", "last4": "4242"})
    assert preview["amount_due_minor"] > 0
    await life.change("pro")
    await life.pass_days(32)
    await life.refund(topped_up)
    await life.dispute(bought)
    await life.calm()
    lists = life.paidup.services.reconciler.lists
    await lists.paid_invoices()
    status, answer = await life.post("/api/subscriptions/cancel", when="now")
    assert status == 200, answer
    await life.calm()
    kinds = [kind for kind, _ in await life.entries()]
    assert {"grant", "reverse"} <= set(kinds), kinds
    await assert_books_balance()


async def test_a_key_that_may_not_read_payment_methods_shows_no_card(world: World) -> None:
    """The preview of a change comes without it."""
    names = [
        f"{RESOURCES[one.path.split('/')[2]]}_{one.access}"
        for one in PERMISSIONS
        if one.resource != "Payment Methods"
    ]
    made = await world.stripe_side.control("restricted_keys", {"permissions": names})
    life = await a_life(world, stripe_secret_key=made["key"])
    await life.buy("basic")
    status, preview = await life.post("/api/subscriptions/preview", plan="pro")
    assert (status, preview["card"], preview["amount_due_minor"] > 0) == (200, None, True)


async def test_what_a_restricted_key_may_not_do_changes_nothing(world: World) -> None:
    """Without the permission to write subscriptions a purchase is refused, and nothing is sold."""
    names = [f"{RESOURCES[one.path.split('/')[2]]}_read" for one in PERMISSIONS]
    made = await world.stripe_side.control("restricted_keys", {"permissions": [*names, "customer_write"]})
    life = await a_life(world, stripe_secret_key=made["key"])
    status, answer = await life.post("/api/subscriptions", plan="pro")
    assert (status, answer["type"].rpartition("/")[2]) == (502, "stripe-refused")
    assert (await life.stripe.api("GET", "subscriptions?status=all"))["data"] == []
