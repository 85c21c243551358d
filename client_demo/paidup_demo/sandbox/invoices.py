"""What invoices do: lines and totals, finalisation, payment, voiding.

An invoice's status and InvoicePayments follow the PaymentIntent that pays it. subscription_outcomes.py
is notified of the outcome through the agenda.
"""

from __future__ import annotations

from paidup_demo.sandbox import bank_methods, dunning, objects, payment_methods, payments, taxes
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.prorations import spread, taken_off
from paidup_demo.sandbox.state import copied
from paidup_demo.sandbox.world import World

PAYABLE = ("open", "uncollectible")
_NO_MORE_ATTEMPTS = {"auto_advance": False, "next_payment_attempt": None}


def new_draft(world: World, customer: Json, currency: str, billing_reason: str, metadata: Json) -> Json:
    """A stored draft without lines. The caller records `invoice.created` once it has them."""
    draft = objects.invoice(world.now(), customer, currency, billing_reason)
    return world.store.add(draft | {"metadata": metadata})


def add_lines(invoice: Json, lines: list[Json]) -> None:
    """Add lines to a draft and update its totals."""
    if invoice["status"] != "draft":
        raise InvalidRequestError("This invoice is no longer editable.", code="invoice_not_editable")
    invoice["lines"]["data"].extend(lines)
    sum_up(invoice)


def apply_discount(invoice: Json, discount: Json, coupon: Json) -> None:
    """Apply a coupon to the discountable lines in proportion to their amounts."""
    lines = [line for line in invoice["lines"]["data"] if line["discountable"]]
    nets = [line["amount"] - sum(part["amount"] for part in line["discount_amounts"]) for line in lines]
    off = taken_off(max(0, sum(nets)), coupon)
    invoice["discounts"].append(discount["id"])
    for line, part in zip(lines, spread(off, nets), strict=True):
        line["discount_amounts"].append({"amount": part, "discount": discount["id"]})
    sum_up(invoice)


def sum_up(invoice: Json) -> None:
    """Totals from lines, their discounts and taxes."""
    lines = invoice["lines"]["data"]
    subtotal = sum(line["amount"] for line in lines)
    off = dict.fromkeys(invoice["discounts"], 0)
    for part in (part for line in lines for part in line["discount_amounts"]):
        off[part["discount"]] = off.get(part["discount"], 0) + part["amount"]
    for line in lines:
        taxes.put_on(line, invoice["default_tax_rates"])
    taxed = taxes.totals(lines)
    added = sum(tax["amount"] for tax in taxed if tax["tax_behavior"] == "exclusive")
    total = subtotal - sum(off.values()) + added
    without = total - sum(tax["amount"] for tax in taxed)
    due = max(0, total)
    invoice["total_discount_amounts"] = [{"amount": amount, "discount": who} for who, amount in off.items()]
    invoice.update(subtotal=subtotal, total=total, total_excluding_tax=without, total_taxes=taxed)
    invoice["subtotal_excluding_tax"] = without + sum(off.values())
    invoice.update(amount_due=due, amount_remaining=due)


def finalize(world: World, invoice: Json) -> None:
    """Number the draft and open it; with nothing due it is paid immediately, without a PaymentIntent."""
    if invoice["status"] != "draft":
        raise InvalidRequestError(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice."
        )
    now = world.now()
    customer = world.store.get("customer", invoice["customer"])
    customer["balance"] = settle_balance(invoice, customer["balance"])
    _freeze_metadata(world, invoice)
    number = customer["next_invoice_sequence"]
    customer["next_invoice_sequence"] += 1
    invoice.update(
        status="open",
        automatically_finalizes_at=None,
        number=f"{customer['invoice_prefix']}-{number:04d}",
        effective_at=now,
        hosted_invoice_url=f"https://invoice.stripe.com/i/acct_sandbox/{invoice['id']}",
        invoice_pdf=f"https://pay.stripe.com/invoice/acct_sandbox/{invoice['id']}/pdf",
    )
    invoice["status_transitions"]["finalized_at"] = now
    if invoice["amount_due"] > 0:
        _expect_payment(world, invoice)
    world.events.record("invoice.finalized", invoice, {"status": "draft"})
    if invoice["amount_due"] == 0:
        mark_paid(world, invoice, paid=0)


def settle_balance(invoice: Json, balance: int) -> int:
    """Sets the customer's balance against the total (below zero: it becomes credit); returns what is left."""
    wanted = invoice["total"] + balance
    due = max(0, wanted)
    invoice.update(starting_balance=balance, ending_balance=wanted - due, amount_due=due)
    invoice["amount_remaining"] = due
    return int(wanted - due)


def _freeze_metadata(world: World, invoice: Json) -> None:
    if invoice["parent"] is not None:
        details = invoice["parent"]["subscription_details"]
        subscription = world.store.get("subscription", details["subscription"])
        details["metadata"] = copied(subscription["metadata"])


def _expect_payment(world: World, invoice: Json) -> None:
    found = world.store.note(invoice["id"]).get("intent")
    intent = world.store.get("payment_intent", found) if found else _new_intent(world, invoice)
    payment = world.store.add(objects.invoice_payment(world.now(), invoice, intent))
    for owner in (invoice, intent):
        world.store.link(owner["id"], payment)
    if not found:
        world.events.record("payment_intent.created", intent)


def _new_intent(world: World, invoice: Json) -> Json:
    intent = payments.new_intent(
        world,
        amount=invoice["amount_due"],
        currency=invoice["currency"],
        customer=invoice["customer"],
        invoice=invoice["id"],
    )
    intent["description"] = "Subscription creation" if invoice["parent"] else "Payment for Invoice"
    _carry_subscription_settings(world, invoice, intent)
    return intent


def _carry_subscription_settings(world: World, invoice: Json, intent: Json) -> None:
    subscription = subscription_of(world, invoice)
    if subscription is None:
        return
    settings = subscription["payment_settings"]
    kinds = [kind for kind in intent["payment_method_types"] if kind not in bank_methods.ONCE_ONLY]
    intent.update(payment_method_types=kinds, payment_method_options=objects.options_of(kinds))
    if kinds := settings["payment_method_types"]:
        intent.update(payment_method_types=list(kinds), payment_method_options=objects.options_of(kinds))
    if settings["save_default_payment_method"] == "on_subscription":
        intent["setup_future_usage"] = "off_session"
    if subscription["default_payment_method"]:
        intent.update(payment_method=subscription["default_payment_method"], status="requires_confirmation")


def subscription_of(world: World, invoice: Json) -> Json | None:
    """The subscription that an invoice belongs to."""
    if invoice["parent"] is None:
        return None
    return world.store.find("subscription", invoice["parent"]["subscription_details"]["subscription"])


def default_payment(world: World, invoice: Json) -> tuple[Json, Json] | None:
    """The default InvoicePayment of this invoice and its PaymentIntent."""
    for payment in world.store.linked(invoice["id"], "invoice_payment"):
        return payment, world.store.get("payment_intent", payment["payment"]["payment_intent"])
    return None


def settle(world: World, invoice_id: str) -> None:
    """The PaymentIntent succeeded (and the lag, if any, is over): payment and invoice become paid."""
    invoice = world.store.find("invoice", invoice_id)
    found = None if invoice is None else default_payment(world, invoice)
    if invoice is None or found is None or invoice["status"] not in PAYABLE:
        return
    payment, intent = found
    payment["status_transitions"]["paid_at"] = world.now()
    world.events.change("invoice_payment.paid", payment, status="paid", amount_paid=intent["amount_received"])
    mark_paid(world, invoice, paid=intent["amount_received"])


def mark_paid(world: World, invoice: Json, *, paid: int, off_stripe: bool = False) -> None:
    """Mark the invoice as paid; updates the subscription, then records the events."""
    previous = {key: invoice[key] for key in ("status", "amount_paid", "amount_remaining", "attempted")}
    invoice["status_transitions"]["paid_at"] = world.now()
    invoice.update(
        status="paid",
        amount_paid=paid,
        amount_paid_off_stripe=paid if off_stripe else 0,
        amount_remaining=invoice["amount_due"] - paid,
        attempted=True,
        attempt_count=invoice["attempt_count"] + (1 if paid else 0),
        auto_advance=False,
        next_payment_attempt=None,
    )
    world.agenda.after(0, "invoice_paid", invoice["id"])
    world.events.record("invoice.updated", invoice, previous)
    world.events.record("invoice.paid", invoice)
    if not off_stripe:
        world.events.record("invoice.payment_succeeded", invoice)


def note_failed_payment(world: World, invoice_id: str) -> None:
    """An attempt failed: the invoice stays open."""
    invoice = world.store.find("invoice", invoice_id)
    if invoice is None or invoice["status"] not in PAYABLE:
        return
    attempt = {
        "attempted": True,
        "attempt_count": invoice["attempt_count"] + 1,
        "next_payment_attempt": dunning.next_attempt_at(world, invoice),
    }
    world.events.change("invoice.payment_failed", invoice, **attempt)
    world.agenda.after(0, "invoice_unpaid", invoice_id)


def note_required_action(world: World, invoice_id: str) -> None:
    """The bank requires authentication; the outcome is open."""
    invoice = world.store.get("invoice", invoice_id)
    world.events.change("invoice.payment_action_required", invoice, attempted=True)
    world.agenda.after(0, "invoice_unpaid", invoice_id)


def pay(world: World, invoice: Json, method: Json | None, *, off_session: bool) -> None:
    """Pays with this card, or the one saved for it; raises CardError when it is declined."""
    if invoice["status"] == "draft":
        finalize(world, invoice)
        if invoice["status"] == "paid":
            return  # the customer's credit covered it
    if invoice["status"] == "paid":
        raise InvalidRequestError("Invoice is already paid")
    found = default_payment(world, invoice)
    if invoice["status"] not in PAYABLE or found is None:
        raise InvalidRequestError(f"This invoice cannot be paid: it is {invoice['status']}.")
    card = method or saved_method(world, invoice)
    if card is None:
        raise InvalidRequestError(
            "There is no default_payment_method set on this Customer or Invoice. Please set a"
            " default_payment_method or pass a payment_method."
        )
    payments.confirm(world, found[1], card, off_session=off_session)


def saved_method(world: World, invoice: Json) -> Json | None:
    """The default card: the subscription's, or the customer's."""
    subscription = subscription_of(world, invoice)
    customer = world.store.get("customer", invoice["customer"])
    saved = (subscription and subscription["default_payment_method"]) or customer["invoice_settings"][
        "default_payment_method"
    ]
    return payment_methods.resolve(world.store, world.now(), saved) if saved else None


def pay_out_of_band(world: World, invoice: Json) -> None:
    """Mark as paid outside Stripe."""
    if invoice["status"] == "draft":
        finalize(world, invoice)
    if invoice["status"] not in PAYABLE:
        raise InvalidRequestError("Invoice is already paid")
    _call_off_payment(world, invoice, "void_invoice")
    mark_paid(world, invoice, paid=invoice["amount_due"], off_stripe=True)


def void(world: World, invoice: Json) -> None:
    """Ends an unpaid invoice for good."""
    if invoice["status"] not in PAYABLE:
        raise InvalidRequestError(
            f"You can only pass in open invoices. This invoice isn't open: it is {invoice['status']}."
        )
    _call_off_payment(world, invoice, "void_invoice")
    customer = world.store.get("customer", invoice["customer"])
    customer["balance"] -= (invoice["ending_balance"] or 0) - invoice["starting_balance"]
    invoice["status_transitions"]["voided_at"] = world.now()
    world.events.change("invoice.voided", invoice, status="void", **_NO_MORE_ATTEMPTS)
    world.agenda.after(0, "invoice_voided", invoice["id"])


def _call_off_payment(world: World, invoice: Json, reason: str) -> None:
    found = default_payment(world, invoice)
    if found is None:
        return
    payment, intent = found
    if intent["status"] != "canceled":
        payments.cancel(world, intent, reason)
    payment["status_transitions"]["canceled_at"] = world.now()
    payment["status"] = "canceled"


def ask_for(world: World, invoice: Json, amount: int) -> None:
    """Change the amount due of an open invoice; at 0 it is paid."""
    found = default_payment(world, invoice)
    if amount == 0:
        _call_off_payment(world, invoice, "void_invoice")
        mark_paid(world, invoice, paid=0, off_stripe=True)  # no payment succeeded
    elif found is not None:
        payment, intent = found
        payment["amount_requested"] = intent["amount"] = amount
        world.store.touch()


def mark_uncollectible(world: World, invoice: Json) -> None:
    """Written off; it can still be paid."""
    if invoice["status"] != "open":
        raise InvalidRequestError("You can only mark open invoices as uncollectible.")
    invoice["status_transitions"]["marked_uncollectible_at"] = world.now()
    world.events.change("invoice.marked_uncollectible", invoice, status="uncollectible", **_NO_MORE_ATTEMPTS)


def keep_item(world: World, item: Json) -> Json:
    """Stores a new invoice item, found again by its customer."""
    world.store.link(item["customer"], item)
    return world.store.add(item)


def line_of_item(invoice: Json, item: Json) -> Json:
    """The line that an invoice item becomes on this invoice."""
    line = objects.line_item(
        invoice,
        amount=item["amount"],
        description=item["description"],
        period=(item["period"]["start"], item["period"]["end"]),
        quantity=item["quantity"],
        pricing=copied(item["pricing"]),
        parent=objects.proration_parent(item)
        if item["proration"]
        else objects.invoice_item_parent(item["id"]),
    )
    line["metadata"] = copied(item["metadata"])
    line["discountable"] = item["discountable"]
    if item["proration"]:
        line["discount_amounts"] = copied(item["proration_details"]["discount_amounts"])
        line["discounts"] = list(item["discounts"])
    return line


def drop_item(invoice: Json, item: Json) -> None:
    """Remove an invoice item's line from a draft, and update its totals."""
    lines = invoice["lines"]
    lines["data"] = [line for line in lines["data"] if _item_behind(line) != item["id"]]
    sum_up(invoice)


def claim_items(world: World, invoice: Json, items: list[Json]) -> None:
    """Assign these items to the invoice, each with its line."""
    lines = {_item_behind(line): line["id"] for line in invoice["lines"]["data"]}
    for item in items:
        item["invoice"] = invoice["id"]
        world.store.note(item["id"])["line"] = lines.get(item["id"])
    world.store.touch()


def _item_behind(line: Json) -> str | None:
    parent = line["parent"]
    details = parent["invoice_item_details"] or parent["subscription_item_details"]
    found: str | None = details["invoice_item"]
    return found


def take_items(world: World, invoice: Json, items: list[Json]) -> None:
    """Add invoice items to a draft."""
    add_lines(invoice, [line_of_item(invoice, item) for item in items])
    claim_items(world, invoice, items)
