"""Reversals: refunds, disputes and credit notes."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from .rig import Receiver, Sandbox, Signup, check_shape, wait_until


async def _paid(sandbox: Sandbox, card: str = "pm_card_visa") -> Signup:
    signup = await sandbox.subscribe()
    await signup.confirm(card)
    return signup


async def test_refunds(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Partial, full and later failed refunds update the charge's `amount_refunded`."""
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    refunds = sandbox_hooked.v1.refunds
    part = await refunds.create_async({"payment_intent": signup.intent, "amount": 500})
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        await refunds.create_async({"charge": part.charge, "amount": 1501})
    await refunds.create_async({"charge": part.charge})
    charge = await sandbox_hooked.v1.charges.retrieve_async(part.charge, {"expand": ["refunds"]})
    assert (charge.amount_refunded, charge.refunded, len(charge.refunds.data)) == (2000, True, 2)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await refunds.create_async({"charge": part.charge})
    assert caught.value.code == "charge_already_refunded"
    await sandbox_hooked.control(f"/refunds/{part.id}/fail")
    charge = await sandbox_hooked.v1.charges.retrieve_async(part.charge)
    assert (charge.amount_refunded, charge.refunded) == (1500, False)
    assert (await signup.read())[1] == "paid"
    await wait_until(lambda: "refund.failed" in sandbox_receiver.types())
    assert {"refund.created", "charge.refunded", "refund.updated"} <= set(sandbox_receiver.types())


async def test_disputes(sandbox_bare: Sandbox) -> None:
    """A dispute is opened and closed by controls; an inquiry ends as warning_closed."""
    for inquiry, ending in ((False, "won"), (False, "lost"), (True, "warning_closed")):
        signup = await sandbox_bare.subscribe()
        await signup.confirm()
        made = await sandbox_bare.control("/disputes", {"payment_intent": signup.intent, "inquiry": inquiry})
        assert made["payment_intent"] == signup.intent
        await sandbox_bare.control("/disputes", {"payment_intent": signup.intent}, expect=400)
        await sandbox_bare.control(f"/disputes/{made['id']}/close", {"status": ending})
        assert (await sandbox_bare.v1.disputes.retrieve_async(made["id"])).status == ending


async def test_a_refund_that_is_pending(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """4000000000007726: pending at first, then succeeds."""
    signup = await _paid(sandbox_hooked, "pm_card_pendingRefund")
    made = await sandbox_hooked.v1.refunds.create_async({"payment_intent": signup.intent})
    assert (made.status, made.pending_reason) == ("pending", "processing")
    check_shape((await sandbox_hooked.raw("GET", f"/v1/refunds/{made.id}")).body)
    await sandbox_hooked.control("/clock", {"advance_seconds": 61})
    assert (await sandbox_hooked.v1.refunds.retrieve_async(made.id)).status == "succeeded"
    await wait_until(lambda: bool(sandbox_receiver.of("refund.updated")))


async def test_a_refund_that_fails_after_it_succeeded(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """4000000000005126: succeeds at first, then fails, and the amount is no longer refunded."""
    signup = await _paid(sandbox_hooked, "pm_card_refundFail")
    made = await sandbox_hooked.v1.refunds.create_async({"payment_intent": signup.intent, "amount": 300})
    assert made.status == "succeeded"
    await sandbox_hooked.control("/clock", {"advance_seconds": 61})
    failed = await sandbox_hooked.v1.refunds.retrieve_async(made.id)
    assert (failed.status, failed.failure_reason) == ("failed", "lost_or_stolen_card")
    assert (await sandbox_hooked.v1.charges.retrieve_async(made.charge)).amount_refunded == 0
    await wait_until(lambda: bool(sandbox_receiver.of("refund.failed")))


async def test_pending_refunds_by_condition(sandbox_bare: Sandbox) -> None:
    """`refund_pending` keeps every refund pending until a control makes it succeed or fail."""
    signup = await _paid(sandbox_bare)
    await sandbox_bare.conditions(refund_pending=True)
    refunds = [
        await sandbox_bare.v1.refunds.create_async({"payment_intent": signup.intent, "amount": 500})
        for _ in range(2)
    ]
    await sandbox_bare.control("/clock", {"advance_seconds": 3600})
    assert {(await sandbox_bare.v1.refunds.retrieve_async(one.id)).status for one in refunds} == {"pending"}
    assert (await sandbox_bare.control(f"/refunds/{refunds[0].id}/succeed"))["status"] == "succeeded"
    assert (await sandbox_bare.control(f"/refunds/{refunds[1].id}/fail"))["status"] == "failed"
    await sandbox_bare.control(f"/refunds/{refunds[1].id}/fail", expect=400)
    charge = await sandbox_bare.v1.charges.retrieve_async(refunds[0].charge)
    assert charge.amount_refunded == 500


async def test_lists_of_refunds(sandbox_bare: Sandbox) -> None:
    """By charge, by intent, by the time of creation, and in pages."""
    signups = [await _paid(sandbox_bare), await _paid(sandbox_bare)]
    v1 = sandbox_bare.v1
    for signup in signups:
        for _ in range(3):
            await v1.refunds.create_async({"payment_intent": signup.intent, "amount": 100})
    first = await v1.refunds.list_async({"payment_intent": signups[0].intent, "limit": 2})
    assert (len(first.data), first.has_more) == (2, True)
    rest = await v1.refunds.list_async({"charge": first.data[0].charge, "starting_after": first.data[-1].id})
    assert (len(rest.data), rest.has_more) == (1, False)
    moment = first.data[0].created
    assert len((await v1.refunds.list_async({"created": {"gte": moment - 10}})).data) == 6
    assert not (await v1.refunds.list_async({"created": {"gt": moment + 100}})).data


async def test_an_inquiry_that_is_escalated(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """An inquiry withdraws no money. Escalated, it is a dispute; if won, the money is reinstated."""
    signup = await _paid(sandbox_hooked)
    wanted = {"payment_intent": signup.intent, "inquiry": True, "amount": 700}
    made = await sandbox_hooked.control("/disputes", wanted)
    assert (made["status"], made["amount"]) == ("warning_needs_response", 700)
    escalated = await sandbox_hooked.control(f"/disputes/{made['id']}/escalate")
    assert (escalated["status"], escalated["is_charge_refundable"]) == ("needs_response", False)
    check_shape(escalated)
    await sandbox_hooked.control(f"/disputes/{made['id']}/escalate", expect=400)
    await sandbox_hooked.control(f"/disputes/{made['id']}/close", {"status": "won"})
    told = ["created", "updated", "funds_withdrawn", "closed", "funds_reinstated"]
    await wait_until(lambda: len([t for t in sandbox_receiver.types() if "dispute" in t]) == len(told))
    listed = await sandbox_hooked.v1.disputes.list_async({"payment_intent": signup.intent})
    assert [one.status for one in listed.data] == ["won"]
    made_events = (await sandbox_hooked.call("GET", "/sandbox/events")).body["events"]
    kinds = [event["type"] for event in reversed(made_events) if "dispute" in event["type"]]
    assert kinds == [f"charge.dispute.{one}" for one in told]


async def test_a_lost_dispute_that_is_appealed(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """The money is away until the appeal is won; each change is told, and nothing else can be appealed."""
    signup = await _paid(sandbox_hooked)
    dispute = await sandbox_hooked.control("/disputes", {"payment_intent": signup.intent})
    path = f"/disputes/{dispute['id']}"
    await sandbox_hooked.control(f"{path}/appeal", {"status": "appeal_under_review"}, expect=400)
    await sandbox_hooked.control(f"{path}/close", {"status": "lost"})
    for status in ("appeal_needs_response", "appeal_under_review"):
        appealed = await sandbox_hooked.control(f"{path}/appeal", {"status": status})
        check_shape(appealed)
        assert appealed["status"] == status
        assert [moved["amount"] for moved in appealed["balance_transactions"]] == [-2000]
    won = await sandbox_hooked.control(f"{path}/close", {"status": "won"})
    assert [moved["amount"] for moved in won["balance_transactions"]] == [-2000, 2000]
    told = ["created", "funds_withdrawn", "closed", "updated", "updated", "closed", "funds_reinstated"]
    made_events = (await sandbox_hooked.call("GET", "/sandbox/events")).body["events"]
    kinds = [event["type"] for event in reversed(made_events) if "dispute" in event["type"]]
    assert kinds == [f"charge.dispute.{one}" for one in told]


async def test_a_dispute_of_more_than_the_charge(sandbox_bare: Sandbox) -> None:
    """A dispute above the charge's amount is rejected, and so is an amount that is not a positive integer."""
    signup = await _paid(sandbox_bare)
    for amount in (2001, 0, "7"):
        wanted = {"payment_intent": signup.intent, "amount": amount}
        await sandbox_bare.control("/disputes", wanted, expect=400)


async def test_a_credit_note_for_a_paid_invoice(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """One part is refunded, one becomes the customer's credit, one is out of band; they must add up."""
    signup = await _paid(sandbox_hooked)
    params: dict[str, Any] = {"invoice": signup.invoice, "amount": 900, "reason": "order_change"}
    notes = sandbox_hooked.v1.credit_notes
    with pytest.raises(stripe.InvalidRequestError, match="must equal"):
        await notes.create_async({**params, "refund_amount": 100})
    ways = {"refund_amount": 500, "credit_amount": 300, "out_of_band_amount": 100}
    made = await notes.create_async({**params, **ways, "expand": ["refunds.refund"]})
    assert (made.type, made.post_payment_amount, made.pre_payment_amount) == ("post_payment", 900, 0)
    assert (made.refunds[0].amount_refunded, made.refunds[0].refund.payment_intent) == (500, signup.intent)
    assert (await sandbox_hooked.v1.customers.retrieve_async(signup.customer)).balance == -300
    invoice = await sandbox_hooked.v1.invoices.retrieve_async(signup.invoice)
    assert (invoice.status, invoice.post_payment_credit_notes_amount) == ("paid", 900)
    await notes.update_async(made.id, {"memo": "sorry", "metadata": {"a": "b"}})
    assert [one.memo for one in (await notes.list_async({"invoice": signup.invoice})).data] == ["sorry"]
    with pytest.raises(stripe.InvalidRequestError, match="must be from 1 to"):
        await notes.create_async({"invoice": signup.invoice, "amount": 1101, "credit_amount": 1101})
    with pytest.raises(stripe.InvalidRequestError, match="open invoice"):
        await notes.void_credit_note_async(made.id)
    await wait_until(lambda: {"credit_note.created", "credit_note.updated"} <= set(sandbox_receiver.types()))
    check_shape((await sandbox_hooked.raw("GET", f"/v1/credit_notes/{made.id}")).body)


async def test_a_credit_note_for_a_line(sandbox_bare: Sandbox) -> None:
    """A note can credit an invoice line or a custom line, and can link an existing refund."""
    signup = await _paid(sandbox_bare)
    invoice = await sandbox_bare.v1.invoices.retrieve_async(signup.invoice)
    refund = await sandbox_bare.v1.refunds.create_async({"payment_intent": signup.intent})
    lines = [{"type": "invoice_line_item", "invoice_line_item": invoice.lines.data[0].id, "quantity": 1}]
    params = {"invoice": invoice.id, "lines": lines, "refunds": [{"refund": refund.id}]}
    made = await sandbox_bare.v1.credit_notes.create_async(params)
    assert (made.amount, made.refunds[0].refund) == (2000, refund.id)
    assert made.lines.data[0].invoice_line_item == invoice.lines.data[0].id
    check_shape((await sandbox_bare.raw("GET", f"/v1/credit_notes/{made.id}")).body)


async def test_a_credit_note_for_an_open_invoice(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """A note lowers the amount due, voiding it restores the amount, and a full note pays the invoice."""
    signup = await sandbox_hooked.subscribe()
    notes, v1 = sandbox_hooked.v1.credit_notes, sandbox_hooked.v1
    made = await notes.create_async({"invoice": signup.invoice, "amount": 500})
    assert (made.type, made.pre_payment_amount) == ("pre_payment", 500)
    assert (await v1.payment_intents.retrieve_async(signup.intent)).amount == 1500
    assert (await v1.invoices.retrieve_async(signup.invoice)).amount_remaining == 1500
    voided = await notes.void_credit_note_async(made.id)
    assert voided.status == "void"
    check_shape((await sandbox_hooked.raw("GET", f"/v1/credit_notes/{made.id}")).body)
    assert (await v1.invoices.retrieve_async(signup.invoice)).amount_due == 2000
    await notes.create_async({"invoice": signup.invoice, "amount": 2000})
    assert await signup.read() == ("canceled", "paid", "active")
    await wait_until(lambda: "credit_note.voided" in sandbox_receiver.types())
    for one in sandbox_receiver.received:
        check_shape(one.event["data"]["object"])
