"""Credit notes: reduce a finalised invoice before or after it is paid.

On a paid invoice the money is returned as a refund (reversals.py), to the customer's balance, or outside
Stripe; the invoice stays paid.
"""

from __future__ import annotations

from paidup_demo.sandbox import invoices, objects, reversals
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.state import new_id
from paidup_demo.sandbox.world import World

GIVEN_BACK = ("refund_amount", "credit_amount", "out_of_band_amount")


def create(world: World, params: Json) -> Json:
    """A credit note for an open or a paid invoice."""
    invoice = world.store.get("invoice", params["invoice"], "invoice")
    if invoice["status"] not in ("open", "paid", "uncollectible"):
        raise InvalidRequestError(
            f"You can only create credit notes for finalized invoices: this one is {invoice['status']}.",
            param="invoice",
        )
    lines = [_line(invoice, wanted) for wanted in params.get("lines", [])]
    amount = _amount(invoice, params, lines)
    lines = lines or [objects.credit_note_line(amount, "Credit", None, 1)]
    number = f"{invoice['number']}-CN-{len(world.store.linked(invoice['id'], 'credit_note')) + 1:02d}"
    made = objects.credit_note(world.now(), invoice, amount=amount, number=number, lines=lines)
    made.update({key: params[key] for key in ("memo", "metadata", "reason") if key in params})
    if invoice["status"] == "paid":
        _give_back(world, invoice, made, params)
    else:
        made.update(type="pre_payment", pre_payment_amount=amount)
    world.store.link(invoice["id"], world.store.add(made))
    world.events.record("credit_note.created", made)
    _count(world, invoice, made, 1)
    return made


def _line(invoice: Json, wanted: Json) -> Json:
    quantity = wanted.get("quantity") or 1
    if wanted.get("type") != "invoice_line_item":
        amount = wanted.get("amount") or (wanted.get("unit_amount") or 0) * quantity
        return objects.credit_note_line(amount, wanted.get("description"), None, quantity)
    for line in invoice["lines"]["data"]:
        if line["id"] == wanted.get("invoice_line_item"):
            off = sum(part["amount"] for part in line["discount_amounts"])
            amount = wanted.get("amount") or line["amount"] - off
            text = wanted.get("description") or line["description"]
            return objects.credit_note_line(amount, text, line["id"], quantity)
    raise InvalidRequestError(
        f"No such invoice line item: '{wanted.get('invoice_line_item')}'",
        code="resource_missing",
        param="lines",
    )


def _amount(invoice: Json, params: Json, lines: list[Json]) -> int:
    """The credited amount: as given, or the sum of the lines; at most what the invoice has left."""
    amount = params.get("amount") or sum(line["amount"] for line in lines)
    before = invoice["post_payment_credit_notes_amount"] + invoice["pre_payment_credit_notes_amount"]
    left = int(invoice["total"]) - int(before) if invoice["status"] == "paid" else invoice["amount_remaining"]
    if not 0 < amount <= left:
        raise InvalidRequestError(
            f"The credit note's amount ({amount}) must be from 1 to the invoice's remaining {left}.",
            param="amount",
        )
    return int(amount)


def _give_back(world: World, invoice: Json, made: Json, params: Json) -> None:
    """Return the money of a paid invoice; the parts must sum up to the amount."""
    linked = [
        {
            "amount_refunded": each.get("amount_refunded")
            or world.store.get("refund", each.get("refund"), "refunds")["amount"],
            "payment_record_refund": None,
            "refund": each.get("refund"),
            "type": "refund",
        }
        for each in params.get("refunds", [])
    ]
    ways = {name: params.get(name) or 0 for name in GIVEN_BACK}
    given = sum(ways.values()) + sum(each["amount_refunded"] for each in linked)
    if given != made["amount"]:
        raise InvalidRequestError(
            "The sum of credit amount, refund amount, refunds and out of band amount must equal the credit"
            f" note's amount of {made['amount']}: it is {given}."
        )
    if ways["refund_amount"]:
        linked.append(_refund(world, invoice, made, ways["refund_amount"]))
    if ways["credit_amount"]:
        customer = world.store.get("customer", invoice["customer"])
        customer["balance"] -= ways["credit_amount"]
        made["customer_balance_transaction"] = new_id("cbtxn")
    made.update(type="post_payment", post_payment_amount=made["amount"], refunds=linked)
    made["out_of_band_amount"] = ways["out_of_band_amount"] or None


def _refund(world: World, invoice: Json, made: Json, amount: int) -> Json:
    found = invoices.default_payment(world, invoice)
    if found is None or found[1]["latest_charge"] is None:
        raise InvalidRequestError("This invoice has no charge to refund.", param="refund_amount")
    charge = world.store.get("charge", found[1]["latest_charge"])
    refund = reversals.refund(world, charge, amount, None, {})
    return {
        "amount_refunded": amount,
        "payment_record_refund": None,
        "refund": refund["id"],
        "type": "refund",
    }


def _count(world: World, invoice: Json, made: Json, sign: int) -> None:
    """Add the note to the invoice's totals, or remove it with `sign` -1; a fully credited invoice is paid."""
    after = made["post_payment_amount"] * sign
    before = made["pre_payment_amount"] * sign
    world.events.change(
        "invoice.updated",
        invoice,
        post_payment_credit_notes_amount=invoice["post_payment_credit_notes_amount"] + after,
        pre_payment_credit_notes_amount=invoice["pre_payment_credit_notes_amount"] + before,
        amount_due=invoice["amount_due"] - before,
        amount_remaining=invoice["amount_remaining"] - before,
    )
    if before:
        invoices.ask_for(world, invoice, invoice["amount_remaining"])


def void(world: World, made: Json) -> None:
    """Void a note while its invoice is still open."""
    invoice = world.store.get("invoice", made["invoice"])
    if made["status"] == "void" or invoice["status"] not in invoices.PAYABLE:
        raise InvalidRequestError("You can only void an issued credit note on an open invoice.")
    world.events.change("credit_note.voided", made, status="void", voided_at=world.now())
    _count(world, invoice, made, -1)
