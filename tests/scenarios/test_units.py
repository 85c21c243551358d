"""Several kinds of credits in one account: bought, granted, spent, returned and told, each on its own."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert

from paidup.client import Credits, Entitlements
from paidup.db.models import CreditGrant, GrantState, LedgerEntry
from paidup.db.outbound_models import OutboundEvent
from paidup.db.unit_accounts import in_unit
from paidup.operations.explain import explain
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import next_balance, status_with
from tests.support.subscription_lifecycle import Life, a_life

PLANS = """
units = ["tokens", "images", "videos"]
[[plans]]
id = "basic"
name = "Basic"
credits = 500
grants = {images = 10, videos = 1}
rollover = "expire"
low_balance = 50
renewal_grace_hours = 0
prices = [
  {lookup_key = "paidup_basic_monthly", amount_minor = 900},
  {lookup_key = "paidup_basic_yearly", amount_minor = 9000, interval = "year"},
]
[[plans]]
id = "pro"
name = "Pro"
credits = 2000
grants = {images = 50}
prices = [{lookup_key = "paidup_pro_monthly", amount_minor = 2900}]
[[plans]]
id = "extra"
name = "Extra images"
unit = "images"
credits = 20
low_balance = 5
prices = [{lookup_key = "paidup_extra", amount_minor = 1500, interval = "once"}]
"""


@pytest.fixture
async def life(world: World, tmp_path: Path) -> Life:
    path = tmp_path / "plans.toml"
    path.write_text(PLANS)
    return await a_life(world, plans_file=path)


async def balances(life: Life) -> tuple[int, int]:
    """Tokens and images."""
    await assert_books_balance()
    account = await life.row()
    return account.balance, in_unit(account, "images").balance


async def now_of(life: Life, path: str) -> Any:
    status, answer = await life.customer.call("GET", path)
    assert status == 200, answer
    return answer


async def spend(life: Life, credits: int, key: str, unit: str | None = None) -> tuple[int, Any]:
    body = {"credits": credits, "key": key} | ({"unit": unit} if unit else {})
    return await life.post("/api/credits/spend", **body)


async def test_a_plan_grants_of_each_unit_and_each_is_spent_alone(life: Life) -> None:
    """The page, the balance's socket, the API, the ledger and the events all say which unit they mean."""
    async with life.customer.watch_balance() as socket:
        assert "units" not in await next_balance(socket)
        purchase = await life.customer.buy("pro")
        async with life.customer.watch(purchase) as page:
            await life.stripe.confirm(purchase["client_secret"])
            shown = await status_with(page, status="active")
        assert (shown["credits_granted"], shown["units_granted"]) == (2000, {"images": 50})
        while (frame := await next_balance(socket))["balance"] != 2000:
            pass
        assert frame["units"] == {"images": {"balance": 50, "held": 0}}
    assert await balances(life) == (2000, 50)

    status, answer = await spend(life, 8, "a", "images")
    assert (status, answer) == (200, {"balance": 42, "credits": 8, "key": "a", "unit": "images"})
    assert await spend(life, 8, "a", "images") == (200, answer), "the same again"
    for unit in ("tokens", None):
        status, refused = await spend(life, 8, "a", unit)
        assert (status, refused["type"].rpartition("/")[2]) == (409, "key-reused")
    status, refused = await spend(life, 43, "b", "images")
    assert (status, refused["balance"], refused["unit"]) == (402, 42, "images")
    assert (await spend(life, 1, "c", "films"))[0] == 422
    assert (await spend(life, 100, "d", "tokens"))[1]["unit"] == "tokens"
    status, held = await life.post("/api/credits/reserve", credits=12, key="w", unit="images")
    assert (status, held["balance"], held["unit"]) == (201, 30, "images")
    assert (await life.post("/api/credits/reserve", credits=12, key="w"))[0] == 409
    seen = await now_of(life, "/api/credits")
    assert convert(seen, Credits).units["images"].available == 30, "as the Python client reads it"
    assert (seen["balance"], seen["held"], len(seen["grants"])) == (1900, 0, 1)
    images = seen["units"]["images"]
    assert (images["available"], images["held"], images["debt"], images["expiring"]) == (30, 12, 0, [])
    status, spent = await life.post("/api/credits/commit", credits=5, key="w")
    assert (status, spent["balance"], spent["unit"]) == (200, 37, "images")
    assert await balances(life) == (1900, 37)

    rights = convert(await now_of(life, "/api/entitlements"), Entitlements)
    assert [rights.balance.available_in(unit) for unit in (None, "images")] == [1900, 37]
    entries = (await now_of(life, "/api/account/entries"))["entries"]
    assert {(each["kind"], each["unit"]) for each in entries} >= {("grant", "tokens"), ("spend", "images")}
    headers = {"Authorization": f"Bearer {life.customer.token()}"}
    url = f"{life.paidup.url}/api/account/entries.csv"
    async with life.customer.http.get(url, headers=headers) as file:
        header, *rows = csv.reader(io.StringIO(await file.text()))
    assert header[-1] == "unit"
    assert {row[-1] for row in rows} == {"tokens", "images"}
    events = await OutboundEvent.filter(type="credits.granted").order_by("id")
    told = [(each.data["credits"], each.balance, each.data.get("unit_balance")) for each in events]
    assert told == [(2000, 2000, None), (50, 2000, 50)], "`balance` is the default unit's for all receivers"
    assert events[1].data["unit"] == "images"
    plans = (await now_of(life, "/api/plans"))["plans"]
    assert [(each["unit"], each["credits"], each["grants"]) for each in plans][1:] == [
        ("tokens", 2000, {"images": 50}),
        ("images", 20, {}),
    ]


async def test_money_that_goes_back_takes_back_of_each_unit(life: Life) -> None:
    """A refund after images were spent leaves a debt of images, which tokens do not pay; it may fail."""
    invoice = await life.buy("pro")
    await spend(life, 50, "all", "images")
    await life.calm()
    refund = await life.refund(invoice, 1450)
    await life.calm()
    assert await balances(life) == (1000, -25)
    in_debt = await OutboundEvent.filter(type="account.in_debt")
    assert [event.data["unit"] for event in in_debt] == ["images"]
    await life.top_up(2)
    assert await balances(life) == (1000, 15), "40 images, less what is owed"
    topped = (await CreditGrant.filter(unit="images").order_by("-id"))[0]
    assert topped.credits == 40
    await life.stripe.control(f"refunds/{refund['id']}/fail")
    await life.calm()
    assert await balances(life) == (2000, 40)
    dispute = await life.dispute(invoice)
    await life.calm()
    assert await balances(life) == (0, 40), "its tokens are withheld; its images were spent"
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "lost"})
    await life.calm()
    assert await balances(life) == (0, -10)
    console = (await explain("ada")).balances
    assert console == "0, -10 images"


async def test_each_unit_expires_and_is_low_on_its_own(life: Life) -> None:
    """A yearly plan grants month by month of both; what is unused of each expires with its month."""
    await life.buy("basic", interval="year")
    await spend(life, 3, "a", "images")
    assert await balances(life) == (500, 7)
    seen = await now_of(life, "/api/account")
    assert [each["unit"] for each in seen["installments"]] == ["tokens", "images", "videos"] * 11
    await life.pass_days(31)
    assert await balances(life) == (500, 10)
    expired = await LedgerEntry.filter(kind="expire").order_by("id")
    assert {(entry.unit, entry.credits) for entry in expired} == {("", -500), ("images", -7), ("videos", -1)}
    await life.top_up()
    account = await life.row()
    assert (account.low_balance, in_unit(account, "images").low_balance) == (50, 5)
    await spend(life, 26, "b", "images")
    low = await OutboundEvent.filter(type="balance.low")
    assert [(event.data["unit"], event.data["unit_balance"]) for event in low] == [("images", 4)]
    images = (await now_of(life, "/api/credits"))["units"]["images"]
    assert images["low_balance"] == 5
    await life.top_up()
    await life.post("/api/credits/reserve", credits=9, key="w", unit="images", expires_in_s=60)
    life.clock.ahead += timedelta(days=32)
    due = life.paidup.services.reconciler.due
    await due.reservations()
    await due.grants()
    assert await due.grants() == 0, "videos have expired as well, although nobody has asked"
    assert await balances(life) == (0, 24), "what a top-up gave does not expire"


async def test_an_upgrade_gives_the_difference_of_each_unit(life: Life) -> None:
    """And the way back gives nothing, of either: what is carried over is set off against the next upgrade."""
    await life.buy("basic")
    await life.change("pro")
    await life.calm()
    await life.wait_for_balance((await life.row()).balance)
    tokens, images = await balances(life)
    assert 1990 <= tokens <= 2000
    assert 49 <= images <= 50
    await life.change("basic")
    await life.calm()
    await life.change("pro")
    await life.calm()
    assert await balances(life) == (tokens, images)


async def test_many_grants_of_one_unit_hide_none_of_another(life: Life) -> None:
    """A hundred are shown, and what expires next, of the default unit, however many others come first."""
    await life.customer.call("GET", "/api/credits")
    account = await life.row()

    def a_grant(unit: str, credits: int, days: int) -> CreditGrant:
        return CreditGrant(
            account_id=account.id,
            unit=unit,
            plan="extra",
            credits=credits,
            remaining=credits,
            state=GrantState.LIVE,
            expires_at=now() + timedelta(days=days),
        )

    grants = [a_grant("images", 20, 2) for _ in range(101)]
    await CreditGrant.bulk_create([*grants, a_grant("", 500, 9)])
    seen = await now_of(life, "/api/credits")
    assert [each["remaining"] for each in seen["grants"]] == [500]
    assert seen["next_expiry"] == seen["expiring"][0]
