"""What a customer may use: one row answers, and it is never older than the last commit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paidup.db.connection import connection
from paidup.db.models import Account, Subscription
from paidup.web.request_ids import current_request_id
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, next_balance, status_with
from tests.support.subscription_lifecycle import Life, a_life, pay_on_with
from tests.support.waiting import wait_until

PLANS = """
[[plans]]
id = "basic"
name = "Basic"
credits = 500
features = ["api"]
limits = {seats = 1, projects = 3}
low_balance = 50
rollover = "expire"
prices = [{lookup_key = "paidup_basic_monthly", amount_minor = 900}]
[[plans]]
id = "pro"
name = "Pro"
credits = 2000
features = ["export", "api"]
limits = {seats = 5, projects = "unlimited"}
prices = [{lookup_key = "paidup_pro_monthly", amount_minor = 2900}]
[[plans]]
id = "extra"
name = "Extra"
credits = 1000
prices = [{lookup_key = "paidup_extra", amount_minor = 1500, interval = "once"}]
"""
NONE: dict[str, Any] = {
    "plan": None,
    "plans": [],
    "status": None,
    "quantity": 0,
    "features": [],
    "limits": {},
}


@pytest.fixture
async def life(world: World, tmp_path: Path) -> Life:
    path = tmp_path / "plans.toml"
    path.write_text(PLANS)
    return await a_life(world, plans_file=path)


async def ask(customer: Customer, etag: str = "") -> tuple[int, Any, str]:
    """Status, body and ETag."""
    headers = {"Authorization": f"Bearer {customer.token()}", "If-None-Match": etag}
    url = f"{customer.paidup.url}/api/entitlements"
    async with customer.http.get(url, headers=headers) as response:
        body = await response.json() if response.status == 200 else None
        assert response.headers["Cache-Control"] == "private, no-cache"
        return response.status, body, response.headers["ETag"]


async def now_of(customer: Customer) -> Any:
    status, body, _ = await ask(customer)
    assert status == 200
    return body


async def test_a_plan_is_there_with_its_credits_and_no_call_asks_stripe(life: Life) -> None:
    """S59: at the moment at which the page hears `active`, the backend reads "pro"."""
    before = await now_of(life.customer)
    assert {name: before[name] for name in NONE} == NONE
    purchase = await life.customer.buy("pro")
    assert await now_of(life.customer) == before, "an unpaid purchase gives nothing"
    async with life.customer.watch(purchase) as page:
        await life.stripe.confirm(purchase["client_secret"])
        await status_with(page, status="active")
        told = await now_of(life.customer)
    assert (told["plan"], told["plans"], told["status"], told["quantity"]) == ("pro", ["pro"], "active", 1)
    assert (told["features"], told["limits"]) == (["api", "export"], {"projects": "unlimited", "seats": 5})
    assert told["balance"] == {"available": 2000, "held": 0, "debt": 0, "low_balance": None}
    assert (told["cancel_at"], told["renews_at"] is None) == (None, False)
    await life.calm()
    await life.stripe.control("calls/reset")
    for _ in range(3):
        await now_of(life.customer)
    assert await life.stripe.calls() == 0
    await assert_books_balance(grants=1)


async def test_the_answer_has_an_etag_that_each_change_changes(life: Life) -> None:
    await life.buy("pro")
    await life.calm()
    seen = []
    for change in (
        lambda: life.spend(5, "report-1"),
        lambda: life.post("/api/credits/reserve", credits=50, key="work"),
        lambda: life.post("/api/credits/release", key="work"),
        lambda: life.post("/api/subscriptions/cancel"),
        lambda: life.post("/api/subscriptions/resume"),
    ):
        _, body, etag = await ask(life.customer)
        assert (await ask(life.customer, etag))[0] == 304
        assert (await ask(life.customer, f'"other", W/{etag}'))[0] == 304
        seen.append((body["version"], etag))
        await change()
        status, body, newer = await ask(life.customer, etag)
        assert (status, newer != etag) == (200, True)
        assert body["version"] > seen[-1][0]
    assert len({etag for _, etag in seen}) == len(seen)


async def test_each_of_the_reads_that_pages_make_is_one_statement(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing is under way. A request's tasks have its id."""
    invoice = await life.buy("pro")
    asked: list[str] = []
    client: Any = type(connection())
    run = client.execute_query

    async def noted(own: Any, query: str, *values: Any) -> Any:
        asked.extend([query] if current_request_id() == "read" else [])
        return await run(own, query, *values)

    monkeypatch.setattr(client, "execute_query", noted)
    headers = {"Authorization": f"Bearer {life.customer.token()}", "X-Request-Id": "read"}
    answers = {}
    for path in ("/api/entitlements", "/api/credits", f"/api/invoices/{invoice}"):
        asked.clear()
        async with life.customer.http.get(f"{life.customer.paidup.url}{path}", headers=headers) as response:
            answers[path] = await response.json()
            assert (response.status, len(asked)) == (200, 1), asked
    told = answers["/api/credits"]
    assert (told["balance"], told["activating"], told["renewing"]) == (2000, None, None)
    assert [(grant["invoice"], grant["remaining"]) for grant in told["grants"]] == [(invoice, 2000)]


async def test_two_customers_never_share_an_etag(life: Life) -> None:
    """A browser in which another customer logs in must not keep the first one's answer."""
    (_, ada, of_ada), (_, bob, of_bob) = await ask(life.customer), await ask(life.paidup.customer("bob"))
    assert ada == bob
    assert of_ada != of_bob


async def test_a_plan_lasts_until_its_end_and_a_top_up_is_no_plan(life: Life) -> None:
    await life.top_up()
    told = await now_of(life.customer)
    assert {name: told[name] for name in NONE} == NONE
    assert told["balance"]["available"] == 1000
    await life.buy("basic")
    await life.post("/api/subscriptions/cancel")
    told = await now_of(life.customer)
    assert (told["plan"], told["renews_at"]) == ("basic", None)
    assert told["cancel_at"] is not None
    assert told["balance"]["low_balance"] == 50, "a top-up that names none leaves it"
    await life.pass_days(31)
    told = await now_of(life.customer)
    assert (told["plan"], told["status"], told["features"]) == (None, "canceled", [])
    await assert_books_balance()


async def test_a_renewal_that_fails_keeps_the_plan_as_long_as_stripe_retries(life: Life) -> None:
    await life.buy("pro")
    await pay_on_with(life, "pm_card_chargeCustomerFail")
    await life.pass_days(31)
    told = await now_of(life.customer)
    assert (told["plan"], told["status"], told["features"]) == ("pro", "past_due", ["api", "export"])
    await life.pass_days(31)
    told = await now_of(life.customer)
    assert (told["plan"], told["status"], told["features"]) == (None, "canceled", [])
    await assert_books_balance(grants=1)


async def test_of_several_plans_the_rights_add_up(life: Life) -> None:
    """The second one as well, from the moment at which it is credited: before Stripe is read again."""
    await life.buy("basic")
    customer = str((await life.row()).stripe_customer)
    async with life.customer.watch_balance() as page:
        await next_balance(page)
        made = await life.stripe.subscribe(customer, "pro", "ada")
        await life.stripe.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
        await wait_until(lambda: _has(life, 2500))
    told = await now_of(life.customer)
    assert (told["plan"], told["plans"]) == ("pro", ["pro", "basic"])
    assert (told["features"], told["limits"]) == (["api", "export"], {"projects": "unlimited", "seats": 5})
    await life.calm()
    await assert_books_balance(grants=2)


async def test_a_row_of_the_release_before_is_completed_when_it_is_read(life: Life) -> None:
    await life.buy("pro")
    await connection().execute_script("UPDATE accounts SET known_subscriptions = NULL")
    assert (await now_of(life.customer))["plan"] == "pro"
    assert (await life.row()).known_subscriptions is not None


async def test_a_subscription_of_another_product_leaves_the_row_again(life: Life) -> None:
    await life.buy("pro")
    account = await life.row()
    form = {"currency": "usd", "unit_amount": "500", "recurring[interval]": "month"}
    price = await life.stripe.api("POST", "prices", **form, **{"product_data[name]": "Support"})
    made = await life.stripe.subscribe(str(account.stripe_customer), **{"items[0][price]": price["id"]})
    await life.paidup.services.subscriptions.register(made["id"], account)
    assert len((await life.row()).known_subscriptions) == 2
    await life.paidup.services.subscriptions.read(made["id"])
    assert not await Subscription.exists(id=made["id"])
    assert len((await life.row()).known_subscriptions) == 1
    await assert_books_balance(grants=1)


async def test_credits_whose_time_is_over_leave_the_balance_although_nobody_looks(life: Life) -> None:
    """S57: the balance of the row is right by itself, so that one row can answer."""
    await life.buy("basic")
    await life.post("/api/subscriptions/cancel")
    async with life.customer.watch_balance() as page:
        await next_balance(page)
        await life.stripe.control("clock", {"advance_seconds": 31 * 24 * 3600})
        life.clock.ahead += timedelta(days=31)
        await life.paidup.services.reconciler.due.grants()
        assert (await next_balance(page))["balance"] == 0
    assert (await Account.get(external_id="ada")).balance == 0
    await assert_books_balance(grants=1)


async def test_held_credits_do_not_look_spent(life: Life) -> None:
    """S57: Held credits do not look spent."""
    await life.buy("pro")
    async with life.customer.watch_balance() as page:
        await next_balance(page)
        await life.post("/api/credits/reserve", credits=300, key="work")
        told = await next_balance(page)
        while told["balance"] != 1700:
            told = await next_balance(page)
    assert told["held"] == 300
    _, shown = await life.customer.call("GET", "/api/credits")
    parts = {"available": 1700, "held": 300, "debt": 0, "low_balance": None}
    assert {name: shown[name] for name in parts} == parts
    assert (await now_of(life.customer))["balance"] == parts
    await life.post("/api/credits/commit", key="work", credits=100)
    assert (await now_of(life.customer))["balance"] == {**parts, "available": 1900, "held": 0}
    await assert_books_balance(grants=1)


async def test_what_expires_is_named_soonest_first(life: Life) -> None:
    await life.buy("basic")
    await life.top_up()
    _, shown = await life.customer.call("GET", "/api/credits")
    (expiring,) = shown["expiring"]
    assert expiring["credits"] == 500
    assert expiring == shown["next_expiry"]


async def test_a_debt_is_named_as_one(life: Life) -> None:
    invoice = await life.buy("pro")
    await life.spend(1500, "report")
    await life.refund(invoice)
    await life.wait_for_balance(-1500)
    assert (await now_of(life.customer))["balance"]["debt"] == 1500
    _, shown = await life.customer.call("GET", "/api/credits")
    assert (shown["available"], shown["debt"]) == (0, 1500)


async def _has(life: Life, credits: int) -> bool:
    return bool((await life.row()).balance == credits)
