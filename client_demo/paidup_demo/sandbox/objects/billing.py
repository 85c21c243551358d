"""Subscriptions, invoices and their lines, and credit notes."""

from __future__ import annotations

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.objects.base import SELF, base, list_of, nulls
from paidup_demo.sandbox.objects.catalogue import plan_of
from paidup_demo.sandbox.state import copied, new_id


def subscription(created: int, customer: str, currency: str) -> Json:
    """A subscription with no items yet, incomplete."""
    empty = nulls(
        "application application_fee_percent billing_cycle_anchor_config billing_thresholds cancel_at"
        " canceled_at customer_account days_until_due default_payment_method default_source description"
        " ended_at latest_invoice next_pending_invoice_item_invoice on_behalf_of pause_collection"
        " pending_invoice_item_interval pending_setup_intent pending_update schedule test_clock transfer_data"
        " trial_end trial_start"
    )
    made = base("subscription", "sub", created) | empty
    return made | {
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": created,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": nulls("comment feedback reason"),
        "collection_method": "charge_automatically",
        "currency": currency,
        "customer": customer,
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            **nulls("account_tax_ids custom_fields description footer"),
            "issuer": SELF,
        },
        "items": list_of([], f"/v1/subscription_items?subscription={made['id']}"),
        "managed_payments": {"enabled": False},
        "metadata": {},
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "start_date": created,
        "status": "incomplete",
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    }


def subscription_item(
    created: int, subscription: str, price: Json, quantity: int, period: tuple[int, int]
) -> Json:
    """One price on a subscription, with its current period."""
    return {
        "id": new_id("si", 14),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": created,
        "current_period_end": period[1],
        "current_period_start": period[0],
        "discounts": [],
        "metadata": {},
        "plan": plan_of(price),
        "price": copied(price),
        "quantity": quantity,
        "subscription": subscription,
        "tax_rates": [],
    }


def invoice(created: int, customer: Json, currency: str, billing_reason: str) -> Json:
    """A draft without lines. Its `period` is not the service period: the lines have that."""
    empty = nulls(
        "account_tax_ids application automatically_finalizes_at custom_fields customer_account"
        " default_payment_method default_source description due_date effective_at ending_balance footer"
        " from_invoice hosted_invoice_url invoice_pdf last_finalization_error latest_revision"
        " next_payment_attempt number on_behalf_of parent receipt_number rendering shipping_cost"
        " shipping_details statement_descriptor test_clock total_pretax_credit_amounts webhooks_delivered_at"
    )
    zeros = dict.fromkeys(
        (
            "amount_due", "amount_overpaid", "amount_paid", "amount_paid_off_stripe", "amount_remaining",
            "amount_shipping", "attempt_count", "post_payment_credit_notes_amount",
            "pre_payment_credit_notes_amount", "starting_balance", "subtotal", "subtotal_excluding_tax",
            "total", "total_excluding_tax",
        ),
        0,
    )  # fmt: skip
    made = base("invoice", "in", created) | empty | zeros | _invoice_settings() | _invoice_customer(customer)
    return made | {
        "billing_reason": billing_reason,
        "currency": currency,
        "lines": list_of([], f"/v1/invoices/{made['id']}/lines"),
        "period_end": created,
        "period_start": created,
        "status": "draft",
        "status_transitions": nulls("finalized_at marked_uncollectible_at paid_at voided_at"),
    }


def _invoice_settings() -> Json:
    return {
        "account_country": "US",
        "account_name": "Paidup sandbox",
        "attempted": False,
        "auto_advance": False,
        "automatic_tax": nulls("disabled_reason liability provider status") | {"enabled": False},
        "collection_method": "charge_automatically",
        "default_tax_rates": [],
        "discounts": [],
        "issuer": SELF,
        "metadata": {},
        "payment_settings": nulls("default_mandate payment_method_options payment_method_types"),
        "total_discount_amounts": [],
        "total_taxes": [],
    }


def _invoice_customer(customer: Json) -> Json:
    return {
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
    }


def line_item(
    invoice: Json, *, amount: int, description: str, period: tuple[int, int], quantity: int,
    pricing: Json | None, parent: Json,
) -> Json:  # fmt: skip
    """An invoice line, without metadata. `amount` is before discounts."""
    return {
        "id": new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": invoice["currency"],
        "description": description,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": {},
        "parent": parent,
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": pricing,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subtotal": amount,
        "taxes": [],
    }


def subscription_parent(subscription: Json) -> Json:
    """An invoice's `parent`: its subscription."""
    return {
        "quote_details": None,
        "subscription_details": {
            "metadata": copied(subscription["metadata"]),
            "subscription": subscription["id"],
        },
        "type": "subscription_details",
    }


def price_details(price: Json) -> Json:
    """A line's `pricing`."""
    return {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": price["unit_amount_decimal"],
    }


def prorated_price_details(price: Json, amount: int, quantity: int) -> Json:
    """A line's `pricing` for a part of a period, with the prorated unit amount."""
    unit = f"{amount / (quantity or 1):.12f}".rstrip("0").rstrip(".")
    return price_details(price) | {"unit_amount_decimal": unit}


def subscription_item_parent(item: Json) -> Json:
    """The parent of a line that comes from a subscription."""
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": None,
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": item["subscription"],
            "subscription_item": item["id"],
        },
        "type": "subscription_item_details",
    }


def proration_parent(invoice_item: Json) -> Json:
    """The parent of a line that prorates a subscription's item."""
    owner = invoice_item["parent"]["subscription_details"]
    credited = invoice_item["proration_details"]["credited_items"]
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": invoice_item["id"],
            "proration": True,
            "proration_details": {"credited_items": credited and credited["invoice_line_item_details"]},
            "subscription": owner["subscription"],
            "subscription_item": owner["subscription_item"],
        },
        "type": "subscription_item_details",
    }


def invoice_item_owner(item: Json) -> Json:
    """An invoice item's `parent`: the subscription item that it prorates."""
    return {
        "subscription_details": {"subscription": item["subscription"], "subscription_item": item["id"]},
        "type": "subscription_details",
    }


def invoice_item_parent(invoice_item: str) -> Json:
    """The parent of a line that comes from an invoice item."""
    return {
        "invoice_item_details": {
            "invoice_item": invoice_item,
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": None,
        },
        "subscription_item_details": None,
        "type": "invoice_item_details",
    }


def invoice_item(created: int, *, customer: str, currency: str, amount: int, quantity: int) -> Json:
    """An invoice item: an amount for one of the customer's invoices."""
    return {
        **nulls("customer_account description invoice parent pricing proration_details test_clock"),
        "id": new_id("ii"),
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer,
        "date": created,
        "discountable": True,
        "discounts": [],
        "livemode": False,
        "metadata": {},
        "net_amount": amount,
        "period": {"start": created, "end": created},
        "proration": False,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "tax_rates": [],
    }


def invoice_payment(created: int, invoice: Json, intent: Json) -> Json:
    """An InvoicePayment: links an invoice to the PaymentIntent that pays it."""
    return base("invoice_payment", "inpay", created) | {
        "amount_paid": None,
        "amount_requested": invoice["amount_remaining"],
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def credit_note(created: int, invoice: Json, *, amount: int, number: str, lines: list[Json]) -> Json:
    """A credit note; the caller says whether it is before or after the payment."""
    made = base("credit_note", "cn", created) | nulls(
        "customer_account customer_balance_transaction memo out_of_band_amount reason shipping_cost voided_at"
    )
    sums = dict.fromkeys(
        ("amount", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"), amount
    )
    zeros = dict.fromkeys(
        ("amount_shipping", "discount_amount", "post_payment_amount", "pre_payment_amount"), 0
    )
    return (
        made
        | sums
        | zeros
        | {
            "currency": invoice["currency"],
            "customer": invoice["customer"],
            "discount_amounts": [],
            "effective_at": created,
            "invoice": invoice["id"],
            "lines": list_of(lines, f"/v1/credit_notes/{made['id']}/lines"),
            "metadata": {},
            "number": number,
            "pdf": f"https://pay.stripe.com/credit_notes/acct_sandbox/{made['id']}/pdf",
            "pretax_credit_amounts": [],
            "refunds": [],
            "status": "issued",
            "total_taxes": [],
            "type": "pre_payment",
        }
    )


def credit_note_line(amount: int, description: str | None, invoice_line: str | None, quantity: int) -> Json:
    """A credit note line: for an invoice line, or a custom one."""
    return {
        "id": new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": amount,
        "description": description,
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "metadata": None,
        "pretax_credit_amounts": [],
        "quantity": quantity,
        "tax_rates": [],
        "taxes": [],
        "type": "invoice_line_item" if invoice_line else "custom_line_item",
        "unit_amount": None,
        "unit_amount_decimal": None,
        **({"invoice_line_item": invoice_line} if invoice_line else {}),
    }
