"""The operators' pages for accounts with several kinds of credits: each number says of which unit it is."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from paidup.credits import ledger, reservations
from paidup.db.connection import write_transaction
from paidup.db.models import Account, EntryKind, StripeCustomer
from paidup.db.unit_accounts import in_unit
from paidup.domain.decisions import InvoiceStatus
from paidup.runtime.clock import now
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN
from tests.operators.person import Answer, Person
from tests.support.factories import an_account, an_invoice, granted
from tests.support.ledger_asserts import assert_books_balance
from tests.support.stripe_sandbox import StripeSide

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ACTIONS = "/operators/actions"


@pytest.fixture
async def person(world: World, http: aiohttp.ClientSession, tmp_path: Path) -> Person:
    """Someone who may act, where the plans file names three units."""
    path = tmp_path / "plans.toml"
    plans = PACKAGED_PLANS.read_text().replace('id = "pro"', 'id = "pro"\ngrants = {images = 50}')
    path.write_text(f'units = ["tokens", "images", "minutes"]\n{plans}')
    person = Person(await world.server(operator_token=OPERATOR_TOKEN, plans_file=path), http)
    await person.sign_in(OPERATOR_TOKEN)
    return person


async def with_three_units() -> tuple[Account, str]:
    """2,000 tokens, 50 images of which 3 are held and 20 expire, and 7 minutes of debt; and an invoice."""
    account = await an_account()
    invoice = await an_invoice(
        account, status=InvoiceStatus.ACTIVE, unit_credits={"images": {"credits_quoted": 50}}
    )
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        await ledger.grant(locked, invoice.id, ledger.GrantTerms(2000))
        images, minutes = in_unit(locked, "images"), in_unit(locked, "minutes")
        await ledger.grant(images, invoice.id, ledger.GrantTerms(30, installment=2))
        await ledger.grant(
            images, invoice.id, ledger.GrantTerms(20, now() + timedelta(days=9), installment=3)
        )
        await ledger.post_entry(minutes, EntryKind.ADJUST, -7, f"correction:{account.id}", "adjusted")
        await reservations.reserve(images, 3, f"poster-{account.id}", now() + timedelta(hours=1), now())
    return account, str(invoice.id)


def rows_of(answer: Answer, caption: str) -> list[list[str]]:
    """The cells of a table, row by row."""
    table = answer.page.partition(f'<caption class="unseen">{caption}</caption>')[2].partition("</table>")[0]
    assert table, f"no table {caption}"
    texts = [re.findall(r"<t[hd].*?</t[hd]>", row, re.S) for row in table.split("<tr")[1:]]
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in texts]


async def test_each_number_of_an_account_says_its_unit(person: Person) -> None:
    """Balance, held, expiring and debt of each; grants, reservations, entries and invoices."""
    account, _ = await with_three_units()
    page = await person.get(f"/operators/account?id={account.external_id}")
    head, *balances = rows_of(page, "Balance")
    assert head == ["Unit", "Available", "Held", "Expiring", "Debt"]
    day = now() + timedelta(days=9)
    assert balances == [
        ["tokens", "2,000", "0", "0", "0"],
        ["images", "47", "3", f"17 on {day.day} {day:%b %Y}", "0"],
        ["minutes", "0", "0", "0", "7"],
    ]
    assert [row[-3:] for row in rows_of(page, "Grants")] == [
        ["Unit", "Credits", "Remaining"],
        ["images", "20", "17"],
        ["images", "30", "30"],
        ["tokens", "2,000", "2,000"],
    ]
    assert [row[-2:] for row in rows_of(page, "Held by reservations")] == [
        ["Unit", "Credits"],
        ["images", "3"],
    ]
    assert [row[-3:] for row in rows_of(page, "Ledger")][:3] == [
        ["Unit", "Credits", "Balance"],
        ["images", "−3", "47"],
        ["minutes", "−7", "−7"],
    ]
    assert rows_of(page, "Invoices")[1][-2] == "2,000 tokens, 50 images"


@SQLITE
async def test_an_invoice_says_the_units_of_its_grants(person: Person) -> None:
    account, invoice = await with_three_units()
    page = await person.get(f"/operators/invoices/{invoice}")
    assert f"Account {account.external_id} , balance 2,000 tokens, 47 images, −7 minutes" in page.text
    assert [row[-4:] for row in rows_of(page, "Grants")] == [
        ["Unit", "Credits", "Remaining", "Frozen"],
        *(["tokens", "2,000", "2,000", "0"], ["images", "30", "30", "0"], ["images", "20", "17", "0"]),
    ]
    assert "Credits 2,000 tokens, 50 images" in page.text


async def test_a_correction_of_a_unit_is_confirmed_done_and_undone_in_it(person: Person) -> None:
    """The form has a choice. No number of the default unit is shown or moved."""
    account, _ = await with_three_units()
    named = f"account={account.external_id}"

    async def balances() -> tuple[int, int]:
        await assert_books_balance()
        row = await Account.get(id=account.id)
        return row.balance, in_unit(row, "images").balance

    asked = await person.confirmation(f"{ACTIONS}/adjust?{named}", credits="-5", unit="images")
    assert f"Lower the balance of {account.external_id} by 5 images." in asked.text, asked.text
    assert "Balance of images 47 → to 42" in asked.text
    assert await balances() == (2000, 47)
    done = await person.get((await person.post(f"{ACTIONS}/adjust", asked.fields)).leads_to)
    assert "Balance adjusted. Balance of images: 47 → to 42" in done.text
    assert await balances() == (2000, 42)
    undo = html.unescape(re.findall(rf'href="({ACTIONS}/adjust[^"]*unit=[^"]*)"', done.page)[0])
    asked = await person.confirmation(undo)
    assert "Balance of images 42 → to 47" in asked.text
    back = await person.get(html.unescape(re.findall(r'href="([^"]*)">Back', asked.page)[0]))
    assert (back.fields["unit"], back.fields["key"]) == ("images", asked.fields["key"])
    done = await person.get((await person.post(f"{ACTIONS}/adjust", asked.fields)).leads_to)
    assert await balances() == (2000, 47)
    assert undo not in html.unescape(done.page), "it is undone"

    given = await person.do(f"{ACTIONS}/grant?{named}", credits="10", unit="images")
    assert await balances() == (2000, 57)
    log = await person.get("/operators/audit-log")
    assert "Balance of images: 47 → to 57" in log.text
    page = await person.get(given.leads_to)
    revoke = html.unescape(re.findall(rf'href="({ACTIONS}/revoke[^"]*)"', page.page)[0])
    asked = await person.confirmation(revoke)
    assert "Balance of images 57 → to 47" in asked.text
    assert (await person.post(f"{ACTIONS}/revoke", asked.fields)).status == 303
    assert await balances() == (2000, 47)

    asked = await person.confirmation(f"{ACTIONS}/grant?{named}", credits="10")
    assert f"Give 10 tokens to {account.external_id}. " in asked.text
    assert "Balance of tokens 2,000 → to 2,010" in asked.text
    refused = await person.confirmation(f"{ACTIONS}/grant?{named}", credits="10", unit="films")
    assert (refused.status, "There is no unit" in refused.text) == (422, True)


@SQLITE
async def test_a_merge_says_what_becomes_of_each_unit(person: Person) -> None:
    (ada, _), (bob, _) = await with_three_units(), await with_three_units()
    form = f"{ACTIONS}/merge-accounts"
    asked = await person.confirmation(form, account=ada.external_id, merged=bob.external_id)
    for words in (
        *(
            "Balance of tokens 2,000 → to 4,000",
            "Balance of images 47 → to 94",
            "Balance of minutes −7 → to −14",
        ),
        *(f"Balance of {bob.external_id} {was} → to none" for was in ("2,000 tokens", "47 images")),
    ):
        assert words in asked.text, asked.text
    await person.do(f"{ACTIONS}/adjust?account={ada.external_id}", credits="1", unit="images")
    done = await person.post(form, {**asked.fields, "typed": bob.external_id})
    assert "Balance of images: 48 → to 95" in (await person.get(done.leads_to)).text, "the change is the same"


@SQLITE
async def test_an_invoice_that_was_paid_elsewhere_says_what_it_gave_of_each_unit(
    person: Person, stripe_side: StripeSide
) -> None:
    customer = await stripe_side.customer()
    prices = (await stripe_side.api("GET", "prices?lookup_keys[]=paidup_pro_monthly"))["data"]
    terms = {"collection_method": "send_invoice", "days_until_due": "30", "items[0][price]": prices[0]["id"]}
    made = await stripe_side.api("POST", "subscriptions", customer=customer, **terms)
    account = await Account.create(external_id="ada", stripe_customer=customer)
    await StripeCustomer.create(id=customer, account=account)
    given = {"account": "ada", "invoice": str(made["latest_invoice"]), "paid_by": "cash"}
    asked = await person.confirmation(f"{ACTIONS}/grant-invoice", **given)
    assert "Balance of tokens 2,000 Balance of images 50 Status" in asked.text, asked.text


@SQLITE
async def test_with_one_unit_no_page_names_any(world: World, http: aiohttp.ClientSession) -> None:
    person = Person(await world.server(operator_token=OPERATOR_TOKEN), http)
    await person.sign_in(OPERATOR_TOKEN)
    account = await an_account()
    await granted(account, 100)
    page = await person.get(f"/operators/account?id={account.external_id}")
    assert "Available 100 Held 0 Expiring 0 Debt 0" in page.text
    form = await person.get(f"{ACTIONS}/adjust?account={account.external_id}")
    assert not [answer for answer in (page, form) if "Unit" in answer.text or "unit" in answer.fields]
