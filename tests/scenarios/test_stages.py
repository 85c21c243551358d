"""What a waiting customer is told: not paid, or paid and being verified. What Stripe says decides."""

from __future__ import annotations

from typing import Any

import pytest

from paidup.db.models import Account
from paidup.rate_limits.account_limits import STATUS_READS_PER_MINUTE
from paidup.web import current_status
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, next_status, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

READ_INVOICE = "GET /v1/invoices/{id}"


async def account(customer: Customer) -> Any:
    status, answer = await customer.call("GET", "/api/account")
    assert status == 200, answer
    return answer


async def read(customer: Customer, purchase: Any) -> Any:
    status, answer = await customer.call("GET", f"/api/invoices/{purchase['invoice']}")
    assert status == 200, answer
    return answer


async def test_the_stages_do_not_flicker_while_the_webhook_is_late(
    world: World, stripe_side: StripeSide
) -> None:
    """S06: Stripe is asked again and again before the payment, and slow; each stage is shown once."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(api_latency_ms=100)
    stages: list[str] = []
    async with ada.watch(purchase) as socket:
        while stages[-1:] != ["awaiting_payment"]:
            stages.append((await next_status(socket))["stage"])

        async def asked_again() -> bool:
            return await stripe_side.calls(READ_INVOICE) >= 4

        await wait_until(asked_again)
        await stripe_side.confirm(purchase["client_secret"])
        await socket.send_json({"type": "verify"})
        while stages[-1] != "active":
            stages.append((await next_status(socket))["stage"])
    assert stages == ["verifying", "awaiting_payment", "active"]
    await assert_books_balance(grants=1)


async def test_who_has_not_paid_is_told_so_when_they_come_back(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """They chose a plan and left. In the purchase, the account, the invoice and the socket."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    assert purchase["status"]["stage"] == "awaiting_payment"
    told = (await account(ada))["activating"]["status"]
    assert (told["status"], told["stage"]) == ("open", "awaiting_payment")
    assert (await read(ada, purchase))["stage"] == "awaiting_payment"
    async with ada.watch(purchase) as socket:
        await status_with(socket, stage="awaiting_payment")
    await assert_books_balance(grants=0)


async def test_who_has_paid_is_not_told_to_pay_though_no_webhook_came(
    world: World, stripe_side: StripeSide
) -> None:
    """S02: the page was closed after the payment; the next request finds it, and credits it once."""
    paidup = await world.server(webhooks=False)
    for name, path in (("ada", "account"), ("bob", "invoices")):
        customer = paidup.customer(name)
        purchase = await customer.buy("pro")
        await stripe_side.confirm(purchase["client_secret"])
        if path == "account":
            answer = await account(customer)
            assert (answer["activating"], answer["balance"]) == (None, 2000)
        else:
            told = await read(customer, purchase)
            assert (told["stage"], told["via"], told["balance"]) == ("active", "verification", 2000)
    await assert_books_balance(grants=2)


@pytest.mark.parametrize("trouble", [{"api_latency_ms": 30_000}, {"api_down": True}])
async def test_nothing_is_claimed_while_stripe_does_not_answer(
    world: World, stripe_side: StripeSide, trouble: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S06: neither that the customer has paid nor that they have not: the stage is `verifying`."""
    monkeypatch.setattr(current_status, "ASK_TIMEOUT_S", 0.2)
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(**trouble)
    assert (await account(ada))["activating"]["status"]["stage"] == "verifying"
    assert (await read(ada, purchase))["stage"] == "verifying"
    async with ada.watch(purchase) as socket:
        assert (await next_status(socket))["stage"] == "verifying"
        await stripe_side.conditions(**{name: type(value)() for name, value in trouble.items()})
        await status_with(socket, stage="awaiting_payment", within=20)


async def test_a_page_that_polls_does_not_ask_stripe_each_time(world: World, stripe_side: StripeSide) -> None:
    """S34: it gets what is known, and Stripe is asked a few times."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    for _ in range(2 * STATUS_READS_PER_MINUTE):
        paidup.services.account_limits.may_read_status((await Account.get()).id)
    for _ in range(5):
        assert (await read(ada, purchase))["stage"] == "awaiting_payment"
    assert await stripe_side.calls(READ_INVOICE) <= 1
