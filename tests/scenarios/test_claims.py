"""Claims over HTTP: links, who may use them, and what is seen of a payment that belongs to nobody."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from paidup.client import Paidup as BackendClient
from paidup.client import signed_with
from paidup.db.models import Account, CheckoutSession
from paidup.errors import Conflict
from paidup.operations.explain import explain
from paidup.operations.overview import load_overview
from paidup.operations.second_payments import Remedy, SecondPaymentRemedies
from paidup.payments.claim_links import ClaimLinks
from paidup.payments.refunds import ReversalHandler
from paidup.reconciliation.alarms import take_snapshot
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.checkout_shop import EXTRA, PRO, CheckoutShop
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import JWT_SECRET, Paidup
from tests.support.processes import ROOT


@pytest.fixture
async def deaf(world: World) -> Paidup:
    """A server that hears of nothing: what a test sees was caused by its calls."""
    return await world.server(webhooks=False, claim_url="https://app.example.test/welcome")


async def paid(shop: CheckoutShop, lookup_key: str = EXTRA, **form: Any) -> str:
    session = await shop.open(lookup_key, **form)
    await shop.pay(session)
    return session


async def link_to(paidup: Paidup, session: str) -> str:
    path = f"/api/checkout/{session}/claim-link"
    status, link = await paidup.customer("backend").call("POST", path, scope="backend")
    assert status == 200, link
    assert link["url"] == f"https://app.example.test/welcome?claim={link['claim']}"
    return str(link["claim"])


async def test_a_claim_link_gives_the_payment_to_who_is_logged_in(deaf: Paidup, shop: CheckoutShop) -> None:
    """S42: paid before signing up; the page that they came back to says so, and then that it is active."""
    session = await paid(shop)
    claim = await link_to(deaf, session)
    assert await Account.all().count() == 0, "the backend is nobody's account"
    status, shown = await deaf.get(f"/api/checkout/{session}")
    assert (status, shown["stage"]) == (200, "unclaimed")
    for _ in range(2):
        status, claimed = await deaf.customer().call("POST", "/api/claims", {"claim": claim})
        assert (status, claimed["checkout"], claimed["status"]) == (200, session, "active")
        assert claimed["credits_granted"] == 1000
        assert not {"account", "balance", "invoice"} & set(claimed)
    assert claimed["version"] > shown["version"]
    assert await deaf.customer().balance() == 1000
    status, refused = await deaf.customer("bob").call("POST", "/api/claims", {"claim": claim})
    assert (status, refused["type"].rpartition("/")[2]) == (409, "conflict")
    path = f"/api/checkout/{session}/claim-link"
    assert (await deaf.customer("backend").call("POST", path, scope="backend"))[0] == 409
    assert await deaf.customer("bob").balance() == 0
    await assert_books_balance()


async def test_two_customers_with_one_link_get_it_once(deaf: Paidup, shop: CheckoutShop) -> None:
    """S41: the link was sent on."""
    claim = await link_to(deaf, await paid(shop))
    names = ("ada", "bob", "eve", "ada")
    answers = await asyncio.gather(
        *(deaf.customer(name).call("POST", "/api/claims", {"claim": claim}) for name in names)
    )
    won = {name for name, (status, _) in zip(names, answers, strict=True) if status == 200}
    assert len(won) == 1
    assert {status for status, _ in answers} == {200, 409}
    assert sum(account.balance for account in await Account.all()) == 1000
    await assert_books_balance()


async def test_only_the_backend_makes_links_and_only_for_what_is_paid(
    deaf: Paidup, shop: CheckoutShop
) -> None:
    """S49: a session of another Stripe account, or of another product, has none."""
    session = await shop.open(EXTRA)
    path = f"/api/checkout/{session}/claim-link"
    assert (await deaf.customer().call("POST", path))[0] == 403
    assert (await deaf.customer().call("POST", path, scope="backend"))[0] == 409
    for unknown in ("cs_test_unknown", "in_1", "cs_live_a1"):
        path = f"/api/checkout/{unknown}/claim-link"
        assert (await deaf.customer().call("POST", path, scope="backend"))[0] == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_claim_that_is_forged_expired_or_a_ticket_is_refused(
    deaf: Paidup, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await paid(shop)
    claim = await link_to(deaf, session)
    ticket = deaf.services.tickets.issue_for_checkout(session)
    forged = ClaimLinks("another-secret-key-of-somebody", 30, "", deaf.services.checkouts)
    for wrong in (ticket, claim[:-1], "", "x" * 1001, (await forged.make(session)).claim):
        status, answer = await deaf.customer().call("POST", "/api/claims", {"claim": wrong})
        assert status == 422, answer
    for body in ({}, {"claim": claim, "checkout": session}, {"claim": None}, {"session": session}):
        assert (await deaf.customer().call("POST", "/api/claims", body))[0] == 422
    monkeypatch.setattr(deaf.services.claim_links, "_valid", timedelta(seconds=-1))
    status, answer = await deaf.customer().call("POST", "/api/claims", {"claim": claim})
    assert (status, answer["detail"]) == (422, "The claim link has expired. Please ask for a new one.")
    assert await CheckoutSession.exists(id=session, account_id__isnull=True)


async def test_a_verified_email_claims_where_the_policy_says_so(world: World, shop: CheckoutShop) -> None:
    """S41: the address that was given on Stripe's page is read there, compared, and not kept."""
    paidup = await world.server(webhooks=False, claim_by_email=True)
    session = await paid(shop)

    async def claim(name: str, **claims: Any) -> int:
        body = {"checkout": session}
        return (await paidup.customer(name).call("POST", "/api/claims", body, **claims))[0]

    assert await claim("eve", email="eve@example.com", email_verified=True) == 403
    assert await claim("eve", email="ada@example.com") == 403
    assert await claim("eve", email="ada@example.com", email_verified="yes") == 403
    assert await CheckoutSession.filter(account_id__not_isnull=True).count() == 0
    assert await claim("ada", email="Ada@Example.com", email_verified=True) == 200
    assert await claim("eve", email="ada@example.com", email_verified=True) == 409
    assert await paidup.customer().balance() == 1000


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_email_claims_nothing_unless_the_policy_says_so(deaf: Paidup, shop: CheckoutShop) -> None:
    session = await paid(shop)
    claims = {"email": "ada@example.com", "email_verified": True}
    body = {"checkout": session}
    assert (await deaf.customer().call("POST", "/api/claims", body, **claims))[0] == 422
    assert await deaf.customer().balance() == 0


async def test_operators_see_what_belongs_to_nobody(deaf: Paidup, shop: CheckoutShop) -> None:
    """S41: an alarm after a while, a metric, the page, and `paidup explain`, which name the remedy."""
    session = await paid(shop, client_reference_id="ada")
    await deaf.services.checkouts.verify(session)
    snapshot = await take_snapshot()
    assert (snapshot.alarms, snapshot.unclaimed) == ([], 1)
    await CheckoutSession.filter(id=session).update(completed_at=now() - timedelta(hours=24))
    (alarm,) = (await take_snapshot()).alarms
    assert (alarm.name, session in alarm.text) == ("unclaimed_payments", True)
    assert (await take_snapshot(unclaimed_after_h=25)).alarms == []
    overview = await load_overview([])
    assert [each.checkout for each in overview.unclaimed] == [session]
    (details,) = (await explain(session)).sessions
    assert (details.account, details.client_reference) == (None, "ada")
    assert await deaf.customer().balance() == 1000
    after = await take_snapshot()
    assert (after.alarms, after.unclaimed) == ([], 0)
    assert (await load_overview([])).unclaimed == []


@pytest.mark.parametrize("lookup_key", [PRO, EXTRA])
async def test_a_payment_of_nobody_is_refunded_without_a_claim(
    deaf: Paidup, shop: CheckoutShop, lookup_key: str
) -> None:
    """S41: nobody was found; its subscription ends, and a claim that comes later gives nothing."""
    session = await paid(shop, lookup_key)
    claim = await link_to(deaf, session)
    services = deaf.services
    reversals = ReversalHandler(services.gateway, services.verification, services.settlement)
    remedies = SecondPaymentRemedies(services.gateway, reversals)
    with pytest.raises(Conflict):
        await remedies.resolve(session, Remedy.CREDIT)
    done = await remedies.resolve(session, Remedy.REFUND)
    assert (done.resolution, done.duplicate_of, done.refund is not None) == ("refunded", None, True)
    assert (await take_snapshot(unclaimed_after_h=0)).unclaimed == 0
    row = await CheckoutSession.get(id=session)
    if row.subscription:
        ended = await shop.stripe.api("GET", f"subscriptions/{row.subscription}")
        assert ended["status"] == "canceled"
    await deaf.webhook(await shop.event("refund.created"))
    assert (await deaf.customer().call("POST", "/api/claims", {"claim": claim}))[0] == 200
    await services.reconciler.due.events()
    assert await deaf.customer().balance() == 0
    await assert_books_balance()


async def test_a_refund_in_stripes_dashboard_ends_the_alarm(deaf: Paidup, shop: CheckoutShop) -> None:
    """S41: and `--keep` does, for one that was given out by hand."""
    session, kept = await paid(shop), await paid(shop)
    for each in (session, kept):
        await deaf.services.checkouts.verify(each)
    row = await CheckoutSession.get(id=session)
    await shop.stripe.api("POST", "refunds", payment_intent=row.payment_intent)
    await deaf.webhook(await shop.event("refund.created"))
    assert (await take_snapshot()).unclaimed == 1
    services = deaf.services
    reversals = ReversalHandler(services.gateway, services.verification, services.settlement)
    await SecondPaymentRemedies(services.gateway, reversals).resolve(kept, Remedy.KEEP)
    assert (await take_snapshot()).unclaimed == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_code_of_the_claims_document_works(deaf: Paidup, shop: CheckoutShop) -> None:
    """S42: as docs/claims.md has it."""
    text = (ROOT / "docs" / "claims.md").read_text()
    sent: list[tuple[str, str]] = []
    client = BackendClient(deaf.url, signed_with(JWT_SECRET))
    names: dict[str, Any] = {"paidup": client, "send_mail": lambda *mail: sent.append(mail)}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "docs/claims.md", "exec"), names)
    await asyncio.to_thread(names["on_payment_of_nobody"], await paid(shop, PRO), "ada@example.com")
    ((address, mail),) = sent
    claim = parse_qs(urlsplit(mail.rpartition(" ")[2]).query)["claim"][0]
    assert address == "ada@example.com"
    assert await asyncio.to_thread(names["on_signed_in"], "ada", claim)
    client.close()
    assert await deaf.customer().balance() == 2000
