"""Prices: tied to plans by lookup keys, made by `stripe-setup`, remembered when a key moves on."""

from __future__ import annotations

from typing import Any

import pytest
from tortoise.exceptions import OperationalError

from paidup.db.models import KnownPrice
from paidup.domain.catalog import Catalogue, Plan, PlanPrice
from paidup.domain.payment_facts import LineFacts
from paidup.errors import ConfigurationError, StorageUnavailable
from paidup.operations.price_setup import ensure_prices
from paidup.services import Services
from paidup.stripe_api.prices import PriceCatalog
from tests.support.stripe_sandbox import StripeSide

PRO = "paidup_pro_monthly"


def a_catalogue(amount_minor: int = 2900, *more: Plan) -> Catalogue:
    return Catalogue((Plan("pro", "Pro", 2000, (PlanPrice(PRO, amount_minor),)), *more))


async def a_book(services: Services, catalogue: Catalogue | None = None) -> PriceCatalog:
    """The price book of a server that has just started."""
    book = PriceCatalog(catalogue or services.catalogue, services.gateway.account)
    await book.load()
    return book


async def test_missing_prices_are_created_and_existing_ones_kept(
    services: Services, stripe_side: StripeSide
) -> None:
    await stripe_side.control("reset")
    first = await ensure_prices(services.gateway, services.catalogue)
    assert {done.state for done in first} == {"created"}
    second = await ensure_prices(services.gateway, services.catalogue)
    assert [(done.state, done.price) for done in second] == [("exists", done.price) for done in first]
    prices = (await stripe_side.api("GET", "prices?limit=100"))["data"]
    recurring = {
        price["lookup_key"]: price["recurring"] and price["recurring"]["interval"] for price in prices
    }
    assert {price["lookup_key"]: price["unit_amount"] for price in prices} == {
        listed.lookup_key: listed.amount_minor for plan in services.catalogue.plans for listed in plan.prices
    }
    assert (recurring[PRO], recurring["paidup_pro_yearly"], recurring["paidup_extra"]) == (
        "month",
        "year",
        None,
    )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_price_that_differs_is_reported_and_left(services: Services, stripe_side: StripeSide) -> None:
    """Stripe's prices are immutable, and somebody may be paying this one."""
    (done,) = await ensure_prices(services.gateway, a_catalogue(9900))
    assert (done.lookup_key, done.state) == (PRO, "differs")
    (price,) = (await stripe_side.api("GET", f"prices?lookup_keys[0]={PRO}"))["data"]
    assert price["unit_amount"] == 2900


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_price_at_another_interval_is_not_taken_for_the_plans(
    services: Services, stripe_side: StripeSide
) -> None:
    """S15: a year's money for a month's credits, or the reverse: better parked and visible than credited."""
    form = {"currency": "usd", "unit_amount": 29000, "lookup_key": PRO, "transfer_lookup_key": "true"}
    form |= {"recurring[interval]": "year", "product_data[name]": "Pro"}
    wrong = (await stripe_side.api("POST", "prices", **form))["id"]
    assert wrong not in await a_book(services)


async def test_a_lookup_key_that_moved_on_still_means_its_plan(
    services: Services, stripe_side: StripeSide
) -> None:
    """The price was raised: new customers pay the new one, old customers' renewals still credit."""
    before = await a_book(services)
    old = await before.id_for(services.catalogue.plan("pro").prices[0])
    form = {"currency": "usd", "unit_amount": 3900, "lookup_key": PRO, "transfer_lookup_key": "true"}
    form |= {"recurring[interval]": "month", "product_data[name]": "Pro"}
    new = (await stripe_side.api("POST", "prices", **form))["id"]
    after = await a_book(services, a_catalogue(3900))
    assert await after.id_for(services.catalogue.plan("pro").prices[0]) == new
    assert {price: (after[price].plan, after[price].unit_amount_minor) for price in (old, new)} == {
        old: ("pro", 2900),
        new: ("pro", 3900),
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_server_starts_without_stripe_on_what_it_once_learned(
    services: Services, stripe_side: StripeSide
) -> None:
    """S34: and it credits, too: webhooks need no call."""
    known = set(await a_book(services))
    await stripe_side.conditions(api_error_rate=1.0)
    await stripe_side.control("calls/reset")
    assert set(await a_book(services)) == known
    assert await stripe_side.calls("GET /v1/prices") == 3, "one call and its two retries, all in vain"
    assert len(known) == len(services.catalogue.lookup_keys)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_plan_whose_price_stripe_does_not_have_cannot_be_sold(
    services: Services, stripe_side: StripeSide
) -> None:
    gold = Plan("gold", "Gold", 9000, (PlanPrice("paidup_gold_monthly", 9900),))
    book = await a_book(services, a_catalogue(2900, gold))
    with pytest.raises(ConfigurationError, match="paidup_gold_monthly"):
        await book.id_for(gold.prices[0])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_unknown_price_does_not_make_stripe_be_asked_again_and_again(
    services: Services, stripe_side: StripeSide
) -> None:
    book = await a_book(services)
    await stripe_side.control("calls/reset")
    assert [await book.refresh() for _ in range(5)] == [False] * 5
    assert await stripe_side.calls("GET /v1/prices") == 0


async def test_what_is_learned_is_kept(services: Services) -> None:
    book = await a_book(services)
    kept = {row.id: (row.plan, row.lookup_key) for row in await KnownPrice.all()}
    assert kept == {price: (book[price].plan, book[price].lookup_key) for price in book}
    assert len(book) == len(services.catalogue.lookup_keys)


def fail_first_writes(monkeypatch: pytest.MonkeyPatch, failing: int, writes: list[int]) -> None:
    """So many writes of prices fail. How many rows each write has, is added to `writes`."""
    bulk_create = KnownPrice.bulk_create

    async def create(rows: list[KnownPrice], **named: Any) -> None:
        writes.append(len(rows))
        if len(writes) <= failing:
            raise OperationalError("the disk is full")
        await bulk_create(rows, **named)

    monkeypatch.setattr(KnownPrice, "bulk_create", create)


async def test_prices_that_could_not_be_written_are_written_together_later(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S34: and never again, by whichever process."""
    await KnownPrice.all().delete()
    writes: list[int] = []
    fail_first_writes(monkeypatch, 1, writes)
    book = PriceCatalog(services.catalogue, services.gateway.account)
    with pytest.raises(StorageUnavailable):
        await book.refresh()
    assert not await KnownPrice.exists()
    await book.refresh()
    await a_book(services)
    assert {row.id for row in await KnownPrice.all()} == set(book)
    assert writes == [len(book)] * 2


async def test_a_payment_waits_until_the_prices_that_could_not_be_written_are(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S34: else a process that starts later might no longer find whose price it was."""
    await KnownPrice.all().delete()
    fail_first_writes(monkeypatch, 2, [])
    book = PriceCatalog(services.catalogue, services.gateway.account)
    with pytest.raises(StorageUnavailable):
        await book.refresh()
    lines = [LineFacts(price, 2900, 1, False, 0, 0) for price in book]
    assert not book.are_known(lines)
    with pytest.raises(StorageUnavailable):
        await book.learn(lines)
    await book.learn(lines)
    assert {row.id for row in await KnownPrice.all()} == set(book)
    assert book.are_known(lines)


async def test_a_price_that_a_payment_names_is_written_before_it_is_settled(services: Services) -> None:
    pro = await (await a_book(services)).id_for(services.catalogue.plan("pro").prices[0])
    await KnownPrice.all().delete()
    await PriceCatalog(services.catalogue, services.gateway.account).learn(
        [LineFacts(pro, 2900, 1, False, 0, 0)]
    )
    assert [row.id for row in await KnownPrice.all()] == [pro]


async def test_products_and_currency_options_are_kept(services: Services, stripe_side: StripeSide) -> None:
    """`currency_options` come only expanded: https://docs.stripe.com/api/prices/object."""
    pro = await (await a_book(services)).id_for(services.catalogue.plan("pro").prices[0])
    await stripe_side.api("POST", f"prices/{pro}", **{"currency_options[krw][unit_amount]": "39000"})
    book = await a_book(services)
    assert book[pro].currency_options == {"krw": 39000}
    product = (await stripe_side.api("GET", f"prices/{pro}"))["product"]
    assert book[pro].product == product
    assert book.is_ours(pro, None)
    assert book.is_ours("price_never_seen", product)
    assert not book.is_ours("price_never_seen", "prod_of_another")
    kept = await KnownPrice.get(id=pro)
    assert (kept.product, kept.currency_options) == (product, {"krw": 39000})
    await stripe_side.conditions(api_error_rate=1.0)
    assert (await a_book(services))[pro] == book[pro], "from the database alone"
