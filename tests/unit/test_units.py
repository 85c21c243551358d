"""Several kinds of credits in one account: each has a balance, grants and a debt of its own."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from paidup.client import AllowDuringOutage, DeferredSpend, SpendResult
from paidup.client.outages import Outage
from paidup.credits import ledger, reservations
from paidup.credits.audit import Finding, audit_all
from paidup.db.connection import connection, repeatable, write_transaction
from paidup.db.models import Account, CreditGrant, EntryKind, LedgerEntry, Watermark
from paidup.db.unit_accounts import in_unit, save_balance
from paidup.domain.catalog import Interval, StripePrice
from paidup.domain.payment_facts import LineFacts
from paidup.domain.plans_toml import parse_catalogue
from paidup.domain.quotes import quote
from paidup.errors import ConfigurationError, Conflict, InvalidInput, KeyReused
from paidup.operations import unit_names
from paidup.operations.account_report import report_account
from paidup.operations.audit_log import Instruction
from paidup.operations.corrections import Corrections, Gift
from paidup.operations.merging import Merging
from paidup.operations.row_repairs import check_rows
from paidup.runtime.clock import now
from tests.support.factories import an_account, an_invoice, ignore_balance
from tests.support.processes import ROOT

PLANS = """
units = ["tokens", "images"]
[[plans]]
id = "pro"
name = "Pro"
credits = 1000
grants = {images = 50}
rollover = "cap"
rollover_cap = 100
trial_credits = 40
prices = [{lookup_key = "pro", amount_minor = 2000}]
[[plans]]
id = "pictures"
name = "Pictures"
unit = "images"
credits = 20
prices = [{lookup_key = "pictures", amount_minor = 300, interval = "once"}]
"""
CATALOGUE = parse_catalogue(PLANS.encode())
PRICES = {
    "pro": StripePrice("pro", "pro", "pro", 2000, "usd"),
    "pictures": StripePrice("pictures", "pictures", "pictures", 300, "usd", Interval.ONCE),
}
MONTH_S = 31 * 24 * 3600


def line(price: str, amount_minor: int, proration: bool = False) -> LineFacts:
    start, end = 1_790_812_800, 1_790_812_800 + MONTH_S
    return LineFacts(price, amount_minor, 1, proration, start, end)


async def balances(account: Account) -> tuple[int, int]:
    await account.refresh_from_db()
    return account.balance, in_unit(account, "images").balance


@repeatable
async def give(account: Account, credits: int, unit: str) -> None:
    """A paid invoice grants these credits of this unit."""
    invoice = await an_invoice(account)
    async with write_transaction():
        own = in_unit(await ledger.lock_account(account.id), unit)
        await ledger.grant(own, invoice.id, ledger.GrantTerms(credits))


async def audited(account: Account) -> dict[str, list[str]]:
    """What the audit finds of the account, by unit."""
    found: dict[str, list[str]] = {}
    for finding in await audit_all():
        subject, _, unit = finding.subject.partition(", ")
        if subject == f"account {account.external_id}":
            found.setdefault(unit, []).append(finding.what)
    return found


# The plans file


def test_a_plan_gives_of_several_units_and_a_top_up_of_one() -> None:
    pro, pictures = CATALOGUE.plans
    assert (pro.unit, pro.grants, pictures.unit) == ("", {"images": 50}, "images")
    assert [CATALOGUE.unit(name) for name in (None, "tokens", "images")] == ["", "", "images"]
    assert (CATALOGUE.unit_name(""), CATALOGUE.unit_name("images")) == ("tokens", "images")
    with pytest.raises(InvalidInput, match="no unit 'credits'"):
        CATALOGUE.unit("credits")


def test_the_documents_example_is_a_plans_file() -> None:
    section = (ROOT / "docs/credits.md").read_text().partition("## Several kinds of credits")[2]
    catalogue = parse_catalogue(section.partition("```toml")[2].partition("```")[0].encode())
    assert [(plan.unit, plan.credits, plan.grants) for plan in catalogue.plans] == [
        ("", 2000, {"images": 50}),
        ("images", 20, {}),
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('unit = "images"', 'unit = "videos"', "no such unit: videos; `units` names tokens, images"),
        ("{images = 50}", "{videos = 50}", "no such unit: videos; `units` names tokens, images"),
        ("{images = 50}", "{tokens = 50}", "`credits` says already how many tokens it gives"),
        ("{images = 50}", "{images = 0}", "plans.0..grants.images"),
        ('["tokens", "images"]', '["tokens", "images", "images"]', "named twice: images"),
        ('["tokens", "images"]', '["", "images"]', "a unit needs a name"),
        ('["tokens", "images"]', '["Tokens", "images"]', "Expected 1 to 20 names, each of at most 30"),
        ('units = ["tokens", "images"]', "", "no such unit: images; `units` names credits"),
    ],
)
def test_a_fault_of_units_is_named(old: str, new: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        parse_catalogue(PLANS.replace(old, new).encode())


def test_an_invoice_gives_of_each_unit_in_proportion_to_the_money() -> None:
    both = quote([line("pro", 1000, proration=True), line("pictures", 600)], CATALOGUE, PRICES)
    assert (both.credits, both.plan, both.units["images"].credits) == (500, "pro", 25 + 40)
    caps = [part.rollover_cap for part in both.units["images"].parts]
    assert caps == [5, 0], "in proportion to what it gives"
    trial = quote([line("pro", 0)], CATALOGUE, PRICES)
    assert (trial.credits, trial.units) == (40, {}), "a trial gives of the plan's own unit"
    pictures = quote([line("pictures", 300)], CATALOGUE, PRICES)
    assert (pictures.credits, pictures.plan, pictures.units["images"].credits) == (0, "pictures", 20)
    less = quote([line("pro", -1000, proration=True)], CATALOGUE, PRICES)
    assert (less.credits, less.units["images"].credits) == (-500, -25)


def test_an_outage_of_a_client_counts_each_unit_alone() -> None:
    outage = Outage(AllowDuringOutage(credits_per_customer=10))
    outage.failed()
    assert outage.defer(DeferredSpend("ada", 10, "a"), None) is not None
    assert outage.defer(DeferredSpend("ada", 1, "b"), None) is None, "as many as the policy allows"
    assert outage.defer(DeferredSpend("ada", 7, "c", unit="images"), 5) is None, "more than is known of"
    images = outage.defer(DeferredSpend("ada", 4, "d", unit="images"), 5)
    assert images == SpendResult(1, 4, "d", deferred=True, unit="images")
    assert outage.defer(DeferredSpend("ada", 4, "d"), None) is None, "the key is of images"


# The ledger


async def test_a_spend_of_one_unit_touches_no_other(ada: Account) -> None:
    await give(ada, 100, "")
    await give(ada, 30, "images")
    async with write_transaction():
        own = in_unit(await ledger.lock_account(ada.id), "images")
        spent = await reservations.spend(own, 20, "a", now())
        assert (spent.balance, spent.unit) == (10, "images")
        with pytest.raises(KeyReused, match="already used for 20 images"):
            await reservations.spend(in_unit(own, ""), 20, "a", now())
    assert await balances(ada) == (100, 10)
    assert await audited(ada) == {}


async def test_a_debt_of_one_unit_is_paid_by_no_other(ada: Account) -> None:
    await give(ada, 100, "")
    support = Corrections(CATALOGUE, ignore_balance)
    why = Instruction("grace", "counted wrong", f"T-{ada.id}")
    done = await support.adjust(ada.external_id, -20, why, allow_debt=True, unit="images")
    assert (done.before, done.after) == ({"images": 0}, {"images": -20})
    assert done.details == {"by": -20, "unit": "images"}
    assert await balances(ada) == (100, -20)
    with pytest.raises(Conflict):
        await support.adjust(ada.external_id, -20, why, allow_debt=True)
    gift = Instruction("grace", "sorry", f"G-{ada.id}")
    await support.grant(ada.external_id, Gift(50), gift, unit="images")
    assert await balances(ada) == (100, 30)
    undone = await support.revoke(f"G-{ada.id}", Instruction("grace", "undo", f"U-{ada.id}"))
    assert undone.after == {"images": -20}
    assert await balances(ada) == (100, -20)
    await support.grant(ada.external_id, Gift(7), Instruction("grace", "x", f"D-{ada.id}"), unit="tokens")
    assert await balances(ada) == (107, -20), "the default unit has a name, too"
    report = await report_account(ada.external_id)
    assert [(own.unit, own.balance) for own in report.balances] == [("", 107), ("images", -20)]
    assert [row.unit for row in report.entries] == ["", "images", "images", "images", ""]


async def test_first_grants_of_a_new_unit_at_the_same_time_make_one_balance(ada: Account) -> None:
    await asyncio.gather(*(give(ada, 10, "images") for _ in range(4)))
    assert await balances(ada) == (0, 40)
    await ada.refresh_from_db()
    assert list(ada.unit_balances) == ["images"]


async def test_the_audit_finds_a_wrong_balance_of_a_unit(ada: Account) -> None:
    await give(ada, 10, "images")
    async with write_transaction():
        own = in_unit(await ledger.lock_account(ada.id), "images")
        own.balance += 1
        wrong = in_unit(own, "videos")
        wrong.balance += 2
        await save_balance(wrong)
    assert await audited(ada) == {
        "images": ["the balance is 11, the entries sum to 10", "the balance is 11, live grants hold 10"],
        "videos": ["the balance is 2, the entries sum to 0", "the balance is 2, live grants hold 0"],
    }


async def test_rows_of_the_release_before_are_of_the_default_unit(ada: Account) -> None:
    """While a deployment rolls on, its processes name no unit in what they insert."""
    invoice, at = await an_invoice(ada), "2026-11-27 00:00:00+00:00"
    statements = (
        "INSERT INTO credit_grants"
        " (account_id, invoice_id, installment, credits, remaining, state, created_at)"
        f" VALUES ({ada.id}, '{invoice.id}', 1, 5, 5, 'live', '{at}')",
        "INSERT INTO ledger_entries (account_id, kind, credits, reference, balance_after, created_at)"
        f" VALUES ({ada.id}, 'grant', 5, '{invoice.id}:1', 5, '{at}')",
        "INSERT INTO reservations (account_id, key, credits, used, sources, state, expires_at, created_at)"
        f" VALUES ({ada.id}, 'old', 1, 0, '[]', 'released', '{at}', '{at}')",
        f"UPDATE accounts SET balance = 5, version = version + 1 WHERE id = {ada.id}",
    )
    for statement in statements:
        await connection().execute_query(statement)
    async with write_transaction():
        own = await ledger.lock_account(ada.id)
        spent = await reservations.spend(own, 2, "new", now())
        assert spent.balance == 3
    assert (await CreditGrant.get(invoice_id=invoice.id)).unit == ""
    assert {row.unit for row in await LedgerEntry.filter(account_id=ada.id)} == {""}


async def test_merging_adds_up_each_unit_and_pays_debts_of_each(ada: Account) -> None:
    bob = await an_account("bob")
    await give(ada, 100, "")
    await give(bob, 30, "images")
    async with write_transaction():
        own = in_unit(await ledger.lock_account(bob.id), "images")
        await reservations.reserve(own, 10, "work", now().replace(year=2099), now())
    await Corrections(CATALOGUE, ignore_balance).adjust(
        ada.external_id, -5, Instruction("grace", "x", f"A-{ada.id}"), allow_debt=True, unit="images"
    )
    why = Instruction("grace", "one person", f"M-{ada.id}")
    await Merging(ignore_balance).merge(ada.external_id, bob.external_id, why)
    assert await balances(ada) == (100, 15)
    assert in_unit(ada, "images").held == 10
    await bob.refresh_from_db()
    assert await balances(bob) == (0, 0)
    async with write_transaction():
        released = await reservations.release(await ledger.lock_account(ada.id), "work", now())
        assert (released.balance, released.unit) == (25, "images")
    marks = LedgerEntry.filter(account_id=ada.id, kind=EntryKind.ADJUST, credits=0)
    assert sorted([row.unit for row in await marks]) == ["", "images"]


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


async def test_a_unit_of_accounts_stays_named_and_is_never_the_default_one(ada: Account) -> None:
    """Else what accounts have would be of another unit, or could not be spent."""
    await Watermark.filter(name=unit_names.NAME).delete()
    await Account.filter(unit_balances__not_isnull=True).update(unit_balances=None)
    plain = replace(CATALOGUE, units=("credits",))
    assert await unit_names.check_units(plain) == []
    assert await unit_names.check_units(CATALOGUE) == []
    await give(ada, 10, "images")
    assert await unit_names.check_units(replace(CATALOGUE, units=("points", "images"))) == [], "renamed"
    for units, problem in (
        (("images", "points"), "accounts have images, so name it there, and not first"),
        (("images", "points"), "points was the default unit"),
        (("points", "videos"), "accounts have images"),
        (("credits",), "accounts have images"),
    ):
        found = await unit_names.check_units(replace(CATALOGUE, units=units))
        assert any(problem in each for each in found), found
    assert await unit_names.check_units(replace(CATALOGUE, units=("points", "videos", "images"))) == []
    await Account.filter(id=ada.id).update(unit_balances=None)


async def test_the_default_unit_stays_it_although_it_was_named_alone_or_not_at_all(ada: Account) -> None:
    """Else `units = ["images", "credits"]` would make every customer's credits images."""
    await Account.filter(unit_balances__not_isnull=True).update(unit_balances=None)
    await give(ada, 10, "")
    for units in (("credits",), ("tokens",)):
        await Watermark.filter(name=unit_names.NAME).delete()
        assert await unit_names.check_units(replace(CATALOGUE, units=units)) == []
        found = await unit_names.check_units(replace(CATALOGUE, units=("videos", *units)))
        assert any(f"{units[0]} was the default unit" in each for each in found), found


async def test_a_wrong_number_of_held_credits_of_a_unit_is_found_and_corrected(ada: Account) -> None:
    await give(ada, 10, "images")
    async with write_transaction():
        own = in_unit(await ledger.lock_account(ada.id), "images")
        own.held = 3
        await save_balance(own)
    what = Finding(f"account {ada.external_id}, images", "held is 3, its reservations hold 0")
    assert what in await check_rows(repair=True)
    await ada.refresh_from_db()
    assert in_unit(ada, "images").held == 0
