"""Refunds and disputes (SCENARIOS, S25): credits are taken back, and restored when a reversal is undone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from paidup.credits.audit import audit_all
from paidup.db.models import Invoice, LedgerEntry, Reversal, ReversalKind
from paidup.operations.explain import explain
from paidup.operations.explain_terminal import render_explanation
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import balance_with, next_status
from tests.support.stripe_sandbox import forged_event
from tests.support.subscription_lifecycle import Life, a_life, grants_of
from tests.support.waiting import wait_until

FULL, CREDITS = 2900, 2000
"""What the plan costs, in cents, and what it gives."""
OLD_VERSION = "2024-06-20"


@pytest.fixture
async def life(world: World) -> AsyncIterator[Life]:
    """After each test the audit finds no error, and every entry's reason is fit for the customer."""
    life = await a_life(world)
    yield life
    await _everything_adds_up(life)


@pytest.fixture
async def no_webhooks(world: World) -> AsyncIterator[Life]:
    """The same without webhooks: tests deliver events themselves."""
    life = await a_life(world, webhooks=False)
    yield life
    await _everything_adds_up(life)


async def _everything_adds_up(life: Life) -> None:
    await assert_books_balance()
    assert await audit_all() == []
    _, answer = await life.customer.call("GET", "/api/account/entries")
    assert all(entry["reason"] for entry in answer["entries"] if entry["kind"] != "spend"), answer


# Refunds


async def test_a_refund_takes_the_credits_back_and_changes_the_status(life: Life) -> None:
    """S25: over HTTP and on the sockets, with a reason that the customer may read."""
    invoice = await life.buy("pro")
    async with life.customer.watch_balance() as line:
        await balance_with(line, CREDITS)
        await life.refund(invoice)
        await balance_with(line, 0)
    seen = await life.wait_for_status(invoice, "reversed")
    assert (seen["credits_granted"], seen["balance"]) == (0, 0)
    _, ticket = await life.post(f"/api/invoices/{invoice}/ticket")
    async with life.customer.watch({"invoice": invoice, **ticket}) as socket:
        assert (await next_status(socket))["status"] == "reversed"
    assert (await life.reasons())[-1] == ("reverse", -CREDITS, "refunded")
    await life.calm()
    assert await LedgerEntry.all().count() == 2


async def test_partial_refunds_take_their_share_and_together_all(life: Life) -> None:
    """S25: in proportion, rounded down; the last cent takes the last credit."""
    invoice = await life.buy("pro")
    await life.refund(invoice, 1000)
    await life.wait_for_balance(CREDITS - CREDITS * 1000 // FULL)
    assert (await life.status(invoice))["status"] == "active"
    assert (await life.status(invoice))["credits_granted"] == CREDITS - CREDITS * 1000 // FULL
    await life.refund(invoice, 1)
    await life.refund(invoice, FULL - 1001)
    await life.wait_for_balance(0)
    await life.wait_for_status(invoice, "reversed")


async def test_a_refund_of_the_cash_beside_a_balance_takes_all_that_it_gave(life: Life) -> None:
    """S25, S26: 45.00 for 3,000 credits; 20.00 are a downgrade's money, whose credits the customer kept."""
    await life.buy("pro")
    await life.change("basic")
    invoice = await life.top_up(3)
    assert await life.balance() == 2000 + 1666
    await life.refund(invoice, 1000)
    await life.wait_for_balance(2000 + 1000)
    await life.refund(invoice, 1500)
    await life.wait_for_balance(2000)
    assert (await life.status(invoice))["status"] == "active", "20.00 of it were paid from the balance"


async def test_a_refund_that_fails_later_restores_the_credits(life: Life) -> None:
    """S25: the money is with the merchant again, the credits with the customer."""
    invoice = await life.buy("pro")
    await life.spend(300, "before")
    made = await life.refund(invoice)
    await life.wait_for_balance(-300)
    await life.stripe.control(f"refunds/{made['id']}/fail")
    await life.wait_for_balance(CREDITS - 300)
    await life.wait_for_status(invoice, "active")
    assert [entry[:2] for entry in await life.reasons()] == [
        ("grant", 2000),
        ("spend", -300),
        ("reverse", -2000),
        ("restore", 2000),
    ]


@pytest.mark.parametrize(("card", "then"), [("pm_card_pendingRefund", 0), ("pm_card_refundFail", CREDITS)])
async def test_a_pending_refund_counts_until_it_fails(life: Life, card: str, then: int) -> None:
    """S25: Stripe's cards whose refunds succeed or fail some time later."""
    invoice = await life.buy("pro", card)
    await life.refund(invoice)
    await life.wait_for_balance(0)
    await life.pass_days(1)
    assert await life.balance() == then
    assert (await life.status(invoice))["status"] == ("active" if then else "reversed")


async def test_a_refund_that_names_only_a_charge_finds_its_invoice(no_webhooks: Life) -> None:
    """S25: a refund or dispute without a PaymentIntent: the charge is read."""
    invoice = await no_webhooks.buy_by_hand()
    made = {**await no_webhooks.refund(invoice), "payment_intent": None}
    await no_webhooks.paidup.webhook(forged_event("refund.created", made))
    assert await no_webhooks.balance() == 0
    foreign = {**made, "id": "re_foreign", "charge": None}
    _, answer = await no_webhooks.paidup.webhook(forged_event("refund.created", foreign))
    assert answer["outcome"] == "irrelevant"


async def test_a_refund_that_arrives_before_the_payment_is_applied_to_it(no_webhooks: Life) -> None:
    """S25: refund.created arrives before invoice.paid: the grant is reversed at once."""
    _, purchase = await no_webhooks.post("/api/subscriptions", plan="pro")
    await no_webhooks.stripe.confirm(purchase["client_secret"])
    await no_webhooks.refund(purchase["invoice"], FULL // 2)
    await no_webhooks.deliver("refund.created")
    assert await no_webhooks.entries() == []
    await no_webhooks.deliver("invoice.paid")
    assert [entry[:2] for entry in await no_webhooks.reasons()] == [("grant", 2000), ("reverse", -1000)]
    await no_webhooks.deliver("refund.created")
    assert await no_webhooks.balance() == 1000


async def test_a_refund_of_an_unknown_invoice_imports_the_invoice(no_webhooks: Life) -> None:
    """S25: bought in Stripe and refunded before any event arrived: credited, then reversed."""
    await no_webhooks.balance()
    made = await no_webhooks.stripe.subscribe(await no_webhooks.stripe.customer(), "pro", "ada")
    invoice = made["latest_invoice"]
    await no_webhooks.stripe.confirm(invoice["confirmation_secret"]["client_secret"])
    intent = invoice["confirmation_secret"]["client_secret"].partition("_secret_")[0]
    await no_webhooks.stripe.api("POST", "refunds", payment_intent=intent)
    await no_webhooks.deliver("refund.created")
    assert [entry[:2] for entry in await no_webhooks.reasons()] == [("grant", 2000), ("reverse", -2000)]
    assert (await no_webhooks.status(invoice["id"]))["status"] == "reversed"


async def test_events_out_of_order_and_repeated_count_once(no_webhooks: Life) -> None:
    """S25: failed arrives before created, each ten times."""
    invoice = await no_webhooks.buy_by_hand()
    bounced = await no_webhooks.refund(invoice, 1450)
    await no_webhooks.stripe.control(f"refunds/{bounced['id']}/fail")
    await no_webhooks.deliver("refund.failed", bounced["id"])
    for _ in range(10):
        await no_webhooks.deliver("refund.created", bounced["id"])
    assert await no_webhooks.balance() == CREDITS
    arrived = await no_webhooks.refund(invoice, 1450)
    event = await no_webhooks.stripe.event("refund.created", arrived["id"])
    for number in range(10):
        twin = {**event, "id": f"{event['id']}{number // 2}"}  # one change can cause several events
        await no_webhooks.paidup.webhook(json.dumps(twin).encode())
    assert await no_webhooks.entries() == [("grant", 2000), ("reverse", -1000)]


@pytest.mark.parametrize("sweep", ["reversals", "undelivered_events"])
async def test_a_refund_without_a_webhook_is_found(life: Life, sweep: str) -> None:
    """S25: in Stripe's list of refunds, or among the events that it could not deliver."""
    invoice = await life.buy("pro")
    await life.calm()
    await life.stripe.conditions(webhook_drop=True)
    await life.refund(invoice)
    assert await life.balance() == CREDITS
    await wait_until(getattr(life.paidup.services.reconciler.lists, sweep))
    assert await life.balance() == 0
    assert (await life.status(invoice))["status"] == "reversed"


async def test_refunds_of_foreign_payments_are_looked_up_once(life: Life) -> None:
    """S25: another product of the same Stripe account costs no call each time the list is read."""
    intent = await life.stripe.api(
        "POST", "payment_intents", amount=500, currency="usd", payment_method="pm_card_visa", confirm="true"
    )
    foreign = await life.stripe.api("POST", "refunds", payment_intent=intent["id"])
    reconciler = life.paidup.services.reconciler
    since = int(foreign["created"]) - 60
    await life.calm()
    await life.stripe.control("calls/reset")
    for _ in range(3):
        found, last, more = await reconciler.lists._handle_reversals(ReversalKind.REFUND, since, None)
        assert (found, last, more) == (0, foreign["id"], False)
    assert await life.stripe.calls("GET /v1/invoice_payments") == 1


# Disputes


async def test_a_dispute_freezes_remaining_credits_until_it_is_won(life: Life) -> None:
    """S25: spent credits stay spent, the rest is frozen; once won, it is restored."""
    invoice = await life.buy("pro")
    await life.spend(600, "before")
    dispute = await life.dispute(invoice)
    await life.wait_for_balance(0)
    status, refused = await life.customer.spend(1, "meanwhile")
    assert (status, refused["balance"]) == (402, 0)
    assert (await life.status(invoice))["status"] == "active"
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "won"})
    await life.wait_for_balance(1400)
    await life.spend(1400, "after")
    assert [entry for entry in await life.reasons() if entry[0] in ("freeze", "restore")] == [
        ("freeze", -1400, "the payment is disputed"),
        ("restore", 1400, "the dispute was closed: the payment stands"),
    ]


async def test_a_lost_dispute_leaves_a_debt_that_the_next_grant_pays(life: Life) -> None:
    """S25: credits that were spent become a debt; until it is covered, spends are refused and show it."""
    invoice = await life.buy("pro")
    await life.spend(600, "before")
    dispute = await life.dispute(invoice)
    await life.wait_for_balance(0)
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "lost"})
    await life.wait_for_balance(-600)
    status, refused = await life.customer.spend(1, "meanwhile")
    assert (status, refused["balance"]) == (402, -600)
    assert (await life.wait_for_status(invoice, "reversed"))["balance"] == -600
    await life.top_up()
    await life.wait_for_balance(400)
    await life.spend(400, "after")


async def test_a_lost_dispute_that_is_appealed_and_won_returns_the_credits(life: Life) -> None:
    """S54: 2,000 back, of which 600 had been spent; while the appeal lasts, the money is still away."""
    invoice = await life.buy("pro")
    await life.spend(600, "before")
    dispute = (await life.dispute(invoice))["id"]
    await life.wait_for_balance(0)
    await life.stripe.control(f"disputes/{dispute}/close", {"status": "lost"})
    await life.wait_for_balance(-600)
    for status in ("appeal_needs_response", "appeal_under_review"):
        await life.stripe.control(f"disputes/{dispute}/appeal", {"status": status})
        await wait_until(partial(Reversal.exists, id=dispute, status=status))
        await life.calm()
        assert await life.balance() == -600
    assert (await life.status(invoice))["status"] == "reversed"
    await life.stripe.control(f"disputes/{dispute}/close", {"status": "won"})
    await life.wait_for_balance(1400)
    await life.wait_for_status(invoice, "active")
    await wait_until(lambda: Reversal.exists(id=dispute, withdrawn=False))


async def test_a_dispute_may_be_lost_again_after_its_appeal(no_webhooks: Life) -> None:
    """S54: its events in the opposite order, each twice: what Stripe says now counts."""
    invoice = await no_webhooks.buy_by_hand()
    dispute = (await no_webhooks.dispute(invoice))["id"]
    for how, status in (("close", "lost"), ("appeal", "appeal_under_review"), ("close", "lost")):
        await no_webhooks.stripe.control(f"disputes/{dispute}/{how}", {"status": status})
    for kind in ("closed", "funds_withdrawn", "updated", "created", "closed", "created"):
        await no_webhooks.deliver(f"charge.dispute.{kind}", dispute)
    assert await no_webhooks.balance() == 0
    assert await no_webhooks.entries() == [("grant", 2000), ("reverse", -2000)]
    for how, status in (("appeal", "appeal_under_review"), ("close", "won")):
        await no_webhooks.stripe.control(f"disputes/{dispute}/{how}", {"status": status})
    await no_webhooks.deliver("charge.dispute.funds_reinstated", dispute)
    assert await no_webhooks.balance() == CREDITS


@pytest.mark.parametrize(("withdrawn", "balance"), [(True, 0), (False, CREDITS)])
async def test_an_unknown_status_withholds_what_was_withdrawn(
    life: Life, monkeypatch: pytest.MonkeyPatch, withdrawn: bool, balance: int
) -> None:
    """S54: a status that Stripe adds later: the money decides, and nothing is taken back for good."""
    invoice = await life.buy("pro")
    dispute = await life.dispute(invoice, inquiry=not withdrawn)
    await life.calm()
    gateway = life.paidup.services.gateway
    read = gateway.read_reversal

    async def renamed(kind: Any, object_id: str) -> Any:
        return structs.replace(await read(kind, object_id), status="arbitration")

    monkeypatch.setattr(gateway, "read_reversal", renamed)
    current = await life.stripe.api("GET", f"disputes/{dispute['id']}")
    await life.paidup.webhook(forged_event("charge.dispute.updated", {**current, "status": "arbitration"}))
    assert (await Reversal.get(id=dispute["id"])).status == "arbitration"
    assert await life.balance() == balance
    assert (await life.status(invoice))["status"] == "active"


async def test_an_inquiry_freezes_nothing_unless_it_becomes_a_dispute(life: Life) -> None:
    """S25: an inquiry moves no money."""
    invoice = await life.buy("pro")
    dispute = await life.dispute(invoice, inquiry=True)
    await life.calm()
    assert await life.balance() == CREDITS
    await life.stripe.control(f"disputes/{dispute['id']}/escalate")
    await life.wait_for_balance(0)


async def test_a_closed_inquiry_posts_no_entry(life: Life) -> None:
    """S25."""
    invoice = await life.buy("pro")
    dispute = await life.dispute(invoice, inquiry=True)
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "warning_closed"})
    await life.calm()
    assert (await Reversal.get()).status == "warning_closed"
    assert await life.entries() == [("grant", 2000)]


async def test_a_partial_dispute_freezes_its_share(life: Life) -> None:
    """S25: a lost partial dispute reverses only the disputed share."""
    invoice = await life.buy("pro")
    dispute = await life.dispute(invoice, amount=FULL // 2)
    await life.wait_for_balance(1000)
    await life.spend(400, "meanwhile")
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "lost"})
    await life.calm()
    assert await life.balance() == 600
    assert (await life.status(invoice))["status"] == "active"


async def test_a_refund_after_a_won_dispute_takes_the_credits_back(life: Life) -> None:
    """S25: a goodwill refund takes its credits as well."""
    invoice = await life.buy("pro")
    dispute = await life.dispute(invoice)
    await life.wait_for_balance(0)
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "won"})
    await life.wait_for_balance(CREDITS)
    await life.refund(invoice)
    await life.wait_for_balance(0)
    await life.wait_for_status(invoice, "reversed")
    assert [kind for kind, _ in await life.entries()] == ["grant", "freeze", "restore", "reverse"]


# Years


async def test_installments_granted_during_a_dispute_are_frozen(life: Life) -> None:
    """S25: each installment is frozen when it is granted; all are restored once the dispute is won."""
    invoice = await life.buy("pro", interval="year")
    dispute = await life.dispute(invoice)
    await life.wait_for_balance(0)
    await life.pass_days(32)
    assert await life.balance() == 0
    assert await life.entries() == [("grant", 2000), ("freeze", -2000), ("grant", 2000), ("freeze", -2000)]
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "won"})
    await life.wait_for_balance(4000)


async def test_a_partly_refunded_year_gives_less_each_month(life: Life) -> None:
    """S25: half of the money was refunded, so half of each installment is granted."""
    invoice = await life.buy("pro", interval="year")
    await life.refund(invoice, 14500)
    await life.wait_for_balance(1000)
    await life.pass_days(32)
    assert await life.balance() == 2000


async def test_a_refunded_year_gives_nothing_more_unless_the_refund_fails(life: Life) -> None:
    """S25: then everything that was due in the meantime is granted."""
    invoice = await life.buy("pro", interval="year")
    made = await life.refund(invoice)
    await life.wait_for_balance(0)
    await life.pass_days(64)
    assert await life.entries() == [("grant", 2000), ("reverse", -2000)]
    assert (await life.account())["installments"] == []
    await life.stripe.control(f"refunds/{made['id']}/fail")
    await life.wait_for_status(invoice, "active")
    await life.work()
    assert await life.balance() == 6000
    assert [state for state, _, _ in await grants_of(invoice)].count("live") == 3


# Credit notes


@pytest.mark.parametrize("way", ["credit_amount", "out_of_band_amount", "refund_amount"])
async def test_a_credit_note_takes_the_credits_however_the_money_was_returned(life: Life, way: str) -> None:
    """S25: to the customer's balance, out of band, or as a refund, which is not counted twice."""
    invoice = await life.buy("pro")
    await life.credit_note(invoice, amount=FULL // 2, **{way: FULL // 2})
    await life.wait_for_balance(1000)
    await life.calm()
    assert await life.balance() == 1000
    await life.credit_note(invoice, amount=FULL // 2, **{way: FULL // 2})
    await life.wait_for_balance(0)
    await life.wait_for_status(invoice, "reversed")


async def test_a_credit_note_on_an_open_invoice_takes_no_credit(life: Life) -> None:
    """S25: it lowers the amount due, as a discount does, even if it is voided later."""
    _, purchase = await life.post("/api/subscriptions", plan="pro")
    void = await life.credit_note(purchase["invoice"], amount=500)
    await life.stripe.api("POST", f"credit_notes/{void['id']}/void")
    await life.credit_note(purchase["invoice"], amount=900)
    await life.pay(purchase)
    await life.calm()
    assert await life.balance() == CREDITS
    await life.refund(purchase["invoice"])
    await life.wait_for_balance(0)
    await life.wait_for_status(purchase["invoice"], "reversed")


async def test_a_written_off_invoice_gives_nothing(life: Life) -> None:
    """S25: a credit note for all of it makes Stripe call it paid, and nobody paid anything.

    https://docs.stripe.com/invoicing/integration/programmatic-credit-notes
    """
    _, purchase = await life.post("/api/subscriptions", plan="pro")
    await life.credit_note(purchase["invoice"], amount=FULL)
    shown = await life.stripe.api("GET", f"invoices/{purchase['invoice']}")
    assert (shown["status"], shown["amount_paid"]) == ("paid", 0)
    await life.wait_for_status(purchase["invoice"], "void")
    await life.calm()
    assert await life.entries() == []


async def test_a_written_off_invoice_gives_its_credits_if_the_policy_says_so(
    world: World, tmp_path: Path
) -> None:
    """S25: for those who write invoices off as a present."""
    plans = tmp_path / "plans.toml"
    text = PACKAGED_PLANS.read_text()
    plans.write_text(text.replace('written_off = "nothing"', 'written_off = "grant"'))
    life = await a_life(world, plans_file=plans)
    _, purchase = await life.post("/api/subscriptions", plan="pro")
    await life.credit_note(purchase["invoice"], amount=FULL)
    await life.wait_for_status(purchase["invoice"], "active")
    assert await life.balance() == CREDITS


async def test_a_credit_note_of_an_old_api_version_is_refetched(no_webhooks: Life) -> None:
    """S25: events of older API versions do not show which part was refunded."""
    invoice = await no_webhooks.buy_by_hand()
    note = await no_webhooks.credit_note(invoice, amount=FULL // 2, refund_amount=FULL // 2)
    await no_webhooks.deliver("refund.created")
    for missing in (["refunds"], ["post_payment_amount", "refunds"]):
        old = {name: value for name, value in note.items() if name not in missing}
        await no_webhooks.paidup.webhook(forged_event("credit_note.created", old, api_version=OLD_VERSION))
        assert await no_webhooks.balance() == 1000
    other = await no_webhooks.credit_note(invoice, amount=FULL // 2, credit_amount=FULL // 2)
    old = {name: value for name, value in other.items() if name != "post_payment_amount"}
    await no_webhooks.paidup.webhook(forged_event("credit_note.created", old, api_version=OLD_VERSION))
    assert await no_webhooks.balance() == 0


# By policy, and for the operators


async def test_spent_credits_are_forgiven_if_the_policy_says_so(world: World) -> None:
    """S25: only unspent credits are removed, without a debt; a failed refund restores them."""
    plans = world.folder / "plans.toml"
    text = PACKAGED_PLANS.read_text()
    plans.write_text(text.replace('spent_then_refunded = "debt"', 'spent_then_refunded = "forgive"'))
    assert plans.read_text() != text
    life = await a_life(world, plans_file=plans)
    invoice = await life.buy("pro")
    await life.spend(600, "before")
    made = await life.refund(invoice)
    await life.wait_for_status(invoice, "reversed")
    assert await life.balance() == 0
    await life.stripe.control(f"refunds/{made['id']}/fail")
    await life.wait_for_balance(1400)
    await _everything_adds_up(life)


async def test_explain_shows_reversed_and_frozen_credits(life: Life) -> None:
    """S25, S36: in the summary and the timeline, for support."""
    invoice = await life.buy("pro")
    await life.refund(invoice, FULL // 2)
    await life.wait_for_balance(1000)
    await life.dispute(invoice, amount=FULL // 4)
    await life.wait_for_balance(500)

    async def told() -> str:
        console = Console(width=200, record=True, file=StringIO())
        console.print(render_explanation(await explain(invoice)))
        return console.export_text()

    async def both_told() -> bool:
        return "reason=refunded" in await told() and "reason=the payment is disputed" in await told()

    await wait_until(both_told)
    assert "1000 credits reversed, 500 withheld by a dispute" in await told()
    await life.refund(invoice)
    await life.wait_for_status(invoice, "reversed")
    assert "The payment and its credits were reversed" in await told()


async def test_entry_reasons_are_written_for_the_customer(life: Life) -> None:
    """S25: no entry shows Stripe's ids or text for the merchant."""
    invoice = await life.buy("pro")
    note = await life.credit_note(invoice, amount=100, credit_amount=100)
    await life.wait_for_balance(CREDITS - CREDITS * 100 // FULL)
    await life.dispute(invoice)
    await life.wait_for_balance(0)
    shown: list[Any] = await life.reasons()
    text = " ".join(reason for _, _, reason in shown)
    assert [reason for _, _, reason in shown] == ["pro, paid", "credited back", "the payment is disputed"]
    assert note["id"] not in text
    assert (await Invoice.get(id=invoice)).credits_reversed == CREDITS * 100 // FULL
