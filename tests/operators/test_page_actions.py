"""The actions of operators on their pages: confirmed in numbers, done once, by whom and why, and undone."""

from __future__ import annotations

import asyncio
import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from paidup.db.models import Account, Correction, CreditGrant, LedgerEntry, StripeCustomer, StripeEvent
from paidup.db.outbound_models import OutboundEvent
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN
from tests.operators.person import Person
from tests.support.factories import an_account, granted, three_sums
from tests.support.stripe_sandbox import StripeSide

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ACTIONS = "/operators/actions"


@pytest.fixture
async def person(world: World, http: aiohttp.ClientSession) -> Person:
    """Someone who is signed in, and may act."""
    person = Person(await world.server(operator_token=OPERATOR_TOKEN), http)
    await person.sign_in(OPERATOR_TOKEN)
    return person


async def rows() -> tuple[int, ...]:
    """How much is written of each kind."""
    models: tuple[Any, ...] = (Correction, CreditGrant, LedgerEntry, OutboundEvent, StripeCustomer)
    return tuple([await model.all().count() for model in models])


async def test_a_grant_is_confirmed_in_numbers_done_once_and_undone(person: Person) -> None:
    """The confirmation changes nothing. Two clicks are one grant, by whom and why; "Undo" takes it back."""
    account = await an_account()
    await granted(account, 1000)
    before, form = await rows(), f"{ACTIONS}/grant"
    asked = await person.confirmation(f"{form}?account={account.external_id}", credits="1,500", plan="pro")
    assert f"Give 1,500 credits to {account.external_id}." in asked.text
    assert re.search(r"Balance 1,000 → to 2,500 credits By grace Reason A day of outage ", asked.text), (
        asked.text
    )
    assert (await rows(), await three_sums(account.id)) == (before, (1000, 1000, 1000))
    first, second = await asyncio.gather(*(person.post(form, asked.fields) for _ in range(2)))
    assert first.leads_to == second.leads_to
    assert await three_sums(account.id) == (2500, 2500, 2500)
    row = await Correction.get()
    assert (row.actor, row.reason, row.key[:5]) == ("grace", "A day of outage", "page-")
    page = await person.get(first.leads_to)
    assert "Credits given. Balance: 1,000 → to 2,500 credits" in page.text
    undo = html.unescape(re.findall(rf'href="({ACTIONS}/revoke[^"]*)"', page.page)[0])
    asked = await person.confirmation(undo)
    assert "Balance 2,500 → to 1,000 credits" in asked.text
    done = await person.post(f"{ACTIONS}/revoke", asked.fields)
    assert await three_sums(account.id) == (1000, 1000, 1000)
    assert f"{ACTIONS}/revoke" not in (await person.get(done.leads_to)).page, "it is undone"
    again = await person.confirmation(undo)
    assert (again.status, "This grant was revoked already" in again.text) == (409, True)


@SQLITE
async def test_other_units_are_shown_apart_and_are_given_adjusted_and_undone(
    world: World, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The page says of which unit a row is; the undo of an adjustment moves the unit that it moved.

    A unit may be named as something else that the audit log keeps is.
    """
    plans = tmp_path / "plans.toml"
    plans.write_text(
        'units = ["tokens", "status"]\n[[plans]]\nid = "pro"\nname = "Pro"\ncredits = 100\n'
        'prices = [{lookup_key = "paidup_pro_monthly", amount_minor = 2900}]\n'
    )
    person = Person(await world.server(operator_token=OPERATOR_TOKEN, plans_file=plans), http)
    await person.sign_in(OPERATOR_TOKEN)
    account = await an_account()
    await granted(account, 1000)
    form = f"{ACTIONS}/grant?account={account.external_id}"
    asked = await person.confirmation(form, credits="30", unit="status")
    assert f"Give 30 status to {account.external_id}." in asked.text
    assert "Balance of status 0 → to 30 By" in asked.text
    await person.post(f"{ACTIONS}/grant", asked.fields)
    form = f"{ACTIONS}/adjust?account={account.external_id}"
    asked = await person.confirmation(form, credits="-4", unit="status")
    page = await person.get((await person.post(f"{ACTIONS}/adjust", asked.fields)).leads_to)
    assert "Unit Available Held Expiring Debt tokens 1,000 0 0 0 status 26 0 0 0 " in page.text, page.text
    assert re.search(r" adjusted by support status −4 26 ", page.text)
    assert re.search(r" live never status 30 26 ", page.text)
    undo = html.unescape(re.findall(rf'href="({ACTIONS}/adjust[^"]*credits[^"]*)"', page.page)[0])
    asked = await person.confirmation(undo)
    assert f"Raise the balance of {account.external_id} by 4 status." in asked.text
    await person.post(f"{ACTIONS}/adjust", asked.fields)
    revoke = html.unescape(re.findall(rf'href="({ACTIONS}/revoke[^"]*)"', page.page)[0])
    asked = await person.confirmation(revoke)
    assert "Balance of status 30 → to 0 By" in asked.text
    await person.post(f"{ACTIONS}/revoke", asked.fields)
    await account.refresh_from_db()
    assert (account.balance, account.unit_balances["status"]["balance"]) == (1000, 0)


async def test_each_action_is_previewed_without_a_trace_and_then_done(person: Person) -> None:
    """Adjust, link, unlink, dismiss, reopen, merge and erase: what the page says is what becomes of it."""
    ada, bob = await an_account("ada"), await an_account("bob")
    await granted(ada, 100)
    await granted(bob, 20)
    await StripeEvent.create(id="evt_1", type="invoice.paid", payload="{}", received_at=now(), attempts=12)
    named = {"account": ada.external_id}
    steps: list[tuple[str, dict[str, str], str, str]] = [
        ("adjust", {**named, "credits": "−30"}, "Balance 100 → to 70 credits", ""),
        ("adjust", {**named, "credits": "-90", "allow_debt": "yes"}, "Balance 70 → to −20 credits", ""),
        ("link-customer", {**named, "customer": "cus_new"}, f"no account → to {ada.external_id}", ""),
        ("unlink-customer", {**named, "customer": "cus_new"}, f"{ada.external_id} → to no account", ""),
        ("dismiss", {"events": "evt_1"}, "evt_1 waiting → to dismissed", ""),
        ("reopen", {"events": "evt_1"}, "evt_1 dismissed → to waiting", ""),
        (
            "merge-accounts",
            {**named, "merged": bob.external_id},
            "Balance −20 → to 0 credits",
            bob.external_id,
        ),
        ("dismiss", {"events": "evt_1"}, "evt_1 waiting → to dismissed", ""),
        ("erase", named, "Accounts renamed 2", ada.external_id),
    ]
    for number, (action, fields, words, typed) in enumerate(steps, 1):
        before = await rows()
        asked = await person.confirmation(f"{ACTIONS}/{action}", **fields)
        assert (asked.status, words in asked.text) == (200, True), (action, asked.text)
        assert await rows() == before, action
        if typed:
            assert "cannot be undone" in asked.text
            for wrong in ("", typed.upper(), f"{typed}x"):
                refused = await person.post(f"{ACTIONS}/{action}", {**asked.fields, "typed": wrong})
                assert (refused.status, f"Please type {typed} to confirm" in refused.text) == (422, True)
            assert await rows() == before, action
        done = await person.post(f"{ACTIONS}/{action}", {**asked.fields, "typed": typed})
        assert (await person.get(done.leads_to)).status == 200
        assert await Correction.all().count() == number, action
    await ada.refresh_from_db()
    assert ada.external_id.startswith("erased-")
    assert await three_sums(ada.id) == (0, 0, 0)
    log = await person.get("/operators/audit-log")
    assert [word in log.text for word in ("Person erased", "Accounts merged", "grace")] == [True] * 3


@SQLITE
async def test_an_invoice_that_was_paid_outside_of_stripe_is_credited(
    person: Person, stripe_side: StripeSide
) -> None:
    """Stripe is asked for the confirmation; the credits wait for the second click."""
    customer = await stripe_side.customer()
    prices = (await stripe_side.api("GET", "prices?lookup_keys[]=paidup_pro_monthly"))["data"]
    made = await stripe_side.api(
        "POST",
        "subscriptions",
        customer=customer,
        collection_method="send_invoice",
        days_until_due="30",
        **{"items[0][price]": prices[0]["id"]},
    )
    account = await Account.create(external_id="ada", stripe_customer=customer)
    await StripeCustomer.create(id=customer, account=account)
    form = f"{ACTIONS}/grant-invoice"
    asked = await person.confirmation(form, account="ada", invoice=made["latest_invoice"], paid_by="cash")
    assert "Status of the invoice open → to active" in asked.text, asked.text
    assert "Balance 2,000 credits" in asked.text
    await account.refresh_from_db()
    assert account.balance == 0
    assert "Credits given" in (await person.get((await person.post(form, asked.fields)).leads_to)).text
    await account.refresh_from_db()
    assert account.balance == 2000


@SQLITE
async def test_what_cannot_be_done_is_said_beside_the_form(person: Person) -> None:
    """With what was filled in. A reason is required, and nothing is written."""
    account = await an_account()
    named = {"account": account.external_id}
    refusals: list[tuple[str, dict[str, str], int, str]] = [
        ("grant", {**named, "credits": "5", "reason": " "}, 422, "fill in “reason”"),
        ("grant", {**named, "credits": "5", "reason": "x" * 2001}, 422, "2000 characters"),
        ("grant", {**named, "credits": "0"}, 422, "a whole number, and not zero"),
        ("grant", {**named, "credits": "1.5"}, 422, "a whole number, and not zero"),
        ("grant", {**named, "credits": "9" * 17}, 422, "a whole number, and not zero"),
        ("grant", {**named, "credits": "-5"}, 422, "The number of credits must be above zero."),
        ("grant", {**named, "credits": "5", "expires_at": "2020-01-01"}, 422, "over already"),
        ("grant", {**named, "credits": "5", "expires_at": "soon"}, 422, "a date, such as"),
        ("grant", {**named, "credits": "5", "expires_at": "9999-12-31"}, 422, "a date, such as"),
        ("grant", {**named, "credits": "5", "plan": "none"}, 422, "There is no plan"),
        ("grant", {**named, "credits": "5", "paid_by": "x"}, 422, "choose how it was paid"),
        ("grant", {"account": "nobody", "credits": "5"}, 404, "There is no account"),
        ("grant", {"account": "a\0b", "credits": "5"}, 422, "fill in “account”"),
        ("grant", {**named, "credits": "5", "key": "T-1"}, 422, "no key"),
        ("adjust", {**named, "credits": "-5"}, 402, "5 credits are needed, the balance is 0"),
        ("revoke", {"granted": "T-1"}, 404, "No grant has the key"),
        ("dismiss", {"events": "\n"}, 422, "name an event"),
        ("dismiss", {"events": "evt_1\n" * 101}, 422, "At most 100"),
        ("erase", {**named, "also": "x\n" * 21}, 422, "At most 20"),
    ]
    for action, fields, status, words in refusals:
        answer = await person.confirmation(f"{ACTIONS}/{action}", **fields)
        assert (answer.status, words in answer.text) == (status, True), (action, fields, answer.text)
        for name, value in fields.items():
            if name not in ("key", "plan", "paid_by", "reason", "account"):
                assert answer.fields[name].strip() == value.strip(), name
    assert not await Correction.exists()


@SQLITE
async def test_an_action_is_about_the_very_account_that_is_named(person: Person) -> None:
    """Ids that differ in their spaces only are different accounts: customers may choose theirs."""
    for name in ("ada lovelace", "ada", *(names := ("ada  lovelace", " ada", "ada ", "ada\u00a0lovelace"))):
        await Account.create(external_id=name)
    for name in names:
        page = await person.get(f"/operators/account?{urlencode({'id': name})}")
        adjust = html.unescape(re.findall(rf'href="({ACTIONS}/adjust[^"]*)"', page.page)[0])
        assert (await person.do(adjust, credits="5")).status == 303
        erase = f"{ACTIONS}/erase?{urlencode({'account': name})}"
        asked = await person.confirmation(erase)
        typed = {**asked.fields, "typed": " ".join(name.split())}
        assert (await person.post(f"{ACTIONS}/erase", typed)).status == 422
    changed = await Account.filter(balance=5).values_list("external_id", flat=True)
    assert sorted(str(each) for each in changed) == sorted(names)


@SQLITE
async def test_a_confirmation_goes_on_with_the_forms_own_fields(person: Person) -> None:
    """Other fields are dropped, whatever their names: some are words of the templates."""
    await Account.create(external_id="ada")
    odd = {"request": "x", "path": "x", "self": "x"}
    form = (await person.get(f"{ACTIONS}/grant?account=ada")).fields
    asked = await person.post(f"{ACTIONS}/grant", {**form, "credits": "5", "reason": "x", **odd})
    assert (asked.status, odd.keys() & asked.fields.keys()) == (200, set())


@SQLITE
async def test_going_back_shows_what_was_done(person: Person) -> None:
    """Who goes back after a click and continues comes to what was done, not to a second confirmation."""
    await Account.create(external_id="ada")
    form = await person.get(f"{ACTIONS}/grant?account=ada")
    filled = {**form.fields, "credits": "5", "reason": "x"}
    asked = await person.post(f"{ACTIONS}/grant", filled)
    done = await person.post(f"{ACTIONS}/grant", asked.fields)
    assert (await person.post(f"{ACTIONS}/grant", filled)).leads_to == done.leads_to
    assert await Correction.all().count() == 1


async def test_an_adjustment_is_undone_once(person: Person) -> None:
    """Two operators, or two tabs, that both undo it."""
    account = await an_account()
    await granted(account, 1000)
    done = await person.do(f"{ACTIONS}/adjust?account={account.external_id}", credits="-300")
    page = await person.get(done.leads_to)
    undo = html.unescape(re.findall(rf'href="({ACTIONS}/adjust[^"]*credits=[^"]*)"', page.page)[0])
    tabs = [await person.confirmation(undo) for _ in range(2)]
    first, second = [await person.post(f"{ACTIONS}/adjust", tab.fields) for tab in tabs]
    assert first.leads_to == second.leads_to
    assert await three_sums(account.id) == (1000, 1000, 1000)
    form = await person.get(html.unescape(re.findall(r'href="([^"]*)">Back', tabs[0].page)[0]))
    assert form.fields["key"] == tabs[0].fields["key"]
    assert undo not in html.unescape((await person.get(done.leads_to)).page), "it is undone"


@SQLITE
async def test_what_is_done_is_what_was_confirmed(person: Person) -> None:
    """Where it would be another change by now, it is asked again, in the new numbers."""
    ada, bob = await an_account("ada"), await an_account("bob")
    await granted(ada, 100)
    await granted(bob, 20)
    form = f"{ACTIONS}/merge-accounts"
    asked = await person.confirmation(form, account=ada.external_id, merged=bob.external_id)
    await granted(bob, 500)
    again = await person.post(form, {**asked.fields, "typed": bob.external_id})
    assert (again.status, "no longer what this page said" in again.text) == (409, True)
    assert "Balance 100 → to 620 credits" in again.text
    assert not await Correction.exists()
    await granted(ada, 1)  # the change is the same
    assert (await person.post(form, {**again.fields, "typed": bob.external_id})).status == 303
    assert await three_sums(ada.id) == (621, 621, 621)
