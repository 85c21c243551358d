"""Constructors of Stripe's objects at the pinned version, every key present as Stripe shows it.

Pure: values in, a fresh dict out. Nothing here stores, decides or sends. Keys that Stripe shows only when
they are expanded (an invoice's `payments` and `confirmation_secret`) are not made here: see expansion.py.
"""

from __future__ import annotations

from typing import Any

from client_demo.sandbox.errors import Json
from client_demo.sandbox.state import copied, new_id

NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
NO_BILLING_DETAILS: Json = {
    "address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None,
}  # fmt: skip
SELF = {"type": "self"}


def nulls(names: str) -> Json:
    """These keys, each null."""
    return dict.fromkeys(names.split())


def base(kind: str, prefix: str, created: int, **more: Any) -> Json:
    """What nearly every object begins with."""
    return {"id": new_id(prefix), "object": kind, "created": created, "livemode": False, **more}


def list_of(items: list[Json], url: str, has_more: bool = False) -> Json:
    """Stripe's list object."""
    return {"object": "list", "data": items, "has_more": has_more, "url": url}


def customer(created: int, params: Json) -> Json:
    """A customer."""
    made = base("customer", "cus", created) | nulls(
        "address currency customer_account default_source description discount email name phone shipping"
        " test_clock"
    )
    return made | {
        "balance": params.get("balance") or 0,
        "delinquent": False,
        "invoice_prefix": new_id("x", 8)[2:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "metadata": {},
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
    }


def product(created: int, name: str) -> Json:
    """A product."""
    return base("product", "prod", created) | {
        **nulls(
            "default_price description package_dimensions shippable statement_descriptor tax_code"
            " unit_label url"
        ),
        "active": True,
        "images": [],
        "marketing_features": [],
        "metadata": {},
        "name": name,
        "updated": created,
    }


def price(created: int, *, product: str, currency: str, unit_amount: int, recurring: Json | None) -> Json:
    """A price per unit; `recurring` {"interval", "interval_count"} or None for one-time."""
    rhythm = None
    if recurring is not None:
        rhythm = {
            "interval": recurring["interval"],
            "interval_count": recurring.get("interval_count") or 1,
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
        }
    return base("price", "price", created) | {
        **nulls("custom_unit_amount lookup_key nickname tiers_mode transform_quantity"),
        "active": True,
        "billing_scheme": "per_unit",
        "currency": currency,
        "metadata": {},
        "product": product,
        "recurring": rhythm,
        "tax_behavior": "unspecified",
        "type": "recurring" if rhythm else "one_time",
        "unit_amount": unit_amount,
        "unit_amount_decimal": str(unit_amount),
    }


def plan_of(price: Json) -> Json:
    """The `plan` that Stripe still shows beside a recurring price."""
    rhythm = price["recurring"]
    return {
        **nulls("meter tiers_mode transform_usage trial_period_days"),
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": "per_unit",
        "created": price["created"],
        "currency": price["currency"],
        "interval": rhythm["interval"],
        "interval_count": rhythm["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "nickname": price["nickname"],
        "product": price["product"],
        "usage_type": "licensed",
    }


def coupon(created: int, params: Json) -> Json:
    """A coupon of a percentage or an amount."""
    return base("coupon", "co", created) | {
        "id": params.get("id") or new_id("", 8)[1:],
        "amount_off": params.get("amount_off"),
        "currency": params.get("currency"),
        "duration": params.get("duration") or "once",
        "duration_in_months": params.get("duration_in_months"),
        "max_redemptions": None,
        "metadata": params.get("metadata", {}),
        "name": params.get("name"),
        "percent_off": params.get("percent_off"),
        "redeem_by": None,
        "times_redeemed": 0,
        "valid": True,
    }


def discount(created: int, coupon_id: str, customer: str, subscription: str) -> Json:
    """A coupon applied to a subscription."""
    return {
        **nulls(
            "checkout_session customer_account end invoice invoice_item promotion_code subscription_item"
        ),
        "id": new_id("di"),
        "object": "discount",
        "customer": customer,
        "source": {"coupon": coupon_id, "type": "coupon"},
        "start": created,
        "subscription": subscription,
    }


def payment_method(created: int, card: Json, billing_details: Json) -> Json:
    """A card; `card` has brand, last4, exp_month, exp_year, funding, country."""
    details = {key: value for key, value in billing_details.items() if value is not None}
    address = NO_ADDRESS | (details.get("address") or {})
    return base("payment_method", "pm", created) | {
        "allow_redisplay": "unspecified",
        "billing_details": NO_BILLING_DETAILS | details | {"address": address},
        "card": {
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "display_brand": card["brand"],
            "fingerprint": new_id("", 16)[1:],
            "generated_from": None,
            "networks": {"available": [card["brand"]], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
            **card,
        },
        "customer": None,
        "customer_account": None,
        "metadata": {},
        "type": "card",
    }


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
    pricing: Json | None, parent: Json, metadata: Json,
) -> Json:  # fmt: skip
    """A line of an invoice. `amount` is before discounts."""
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
        "metadata": metadata,
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
    """The parent of a subscription's invoice."""
    return {
        "quote_details": None,
        "subscription_details": {
            "metadata": copied(subscription["metadata"]),
            "subscription": subscription["id"],
        },
        "type": "subscription_details",
    }


def price_details(price: Json) -> Json:
    """How a line names its price."""
    return {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": price["unit_amount_decimal"],
    }


def prorated_price_details(price: Json, amount: int, quantity: int) -> Json:
    """The same for a part of a period, with what one unit comes to."""
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
    """How an invoice item names the subscription's item that it prorates."""
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
    """Something to be put on an invoice of the customer's."""
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
    """The link between an invoice and the PaymentIntent that is to pay it."""
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


def payment_intent(created: int, *, amount: int, currency: str, customer: str | None) -> Json:
    """A PaymentIntent that waits for a card."""
    made = base("payment_intent", "pi", created) | nulls(
        "allowed_payment_method_types application application_fee_amount automatic_payment_methods"
        " canceled_at cancellation_reason customer_account description excluded_payment_method_types"
        " last_payment_error latest_charge managed_payments next_action on_behalf_of payment_method"
        " payment_method_configuration_details processing receipt_email review setup_future_usage shipping"
        " statement_descriptor statement_descriptor_suffix transfer_data transfer_group"
    )
    return made | {
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "capture_method": "automatic",
        "client_secret": f"{made['id']}_secret_{new_id('', 25)[1:]}",
        "confirmation_method": "automatic",
        "currency": currency,
        "customer": customer,
        "metadata": {},
        "payment_method_options": {
            "card": nulls("installments mandate_options network request_three_d_secure")
        },
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
    }


def setup_intent(created: int, customer: str) -> Json:
    """A SetupIntent that waits for a card."""
    made = base("setup_intent", "seti", created) | nulls(
        "application automatic_payment_methods cancellation_reason customer_account description "
        "excluded_payment_method_types flow_directions last_setup_error latest_attempt mandate next_action "
        "on_behalf_of payment_method payment_method_configuration_details single_use_mandate"
    )
    return made | {
        "client_secret": f"{made['id']}_secret_{new_id('', 25)[1:]}",
        "customer": customer,
        "metadata": {},
        "payment_method_options": {"card": nulls("mandate_options network request_three_d_secure")},
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
        "usage": "off_session",
    }


def charge(created: int, intent: Json, method: Json) -> Json:
    """A successful charge of the whole intent; `refused` turns it into a failed one."""
    made = base("charge", "ch", created) | nulls(
        "application application_fee application_fee_amount balance_transaction failure_balance_transaction"
        " failure_code failure_message on_behalf_of receipt_email receipt_number review shipping"
        " source_transfer statement_descriptor statement_descriptor_suffix transfer_data transfer_group"
    )
    return made | {
        "amount": intent["amount"],
        "amount_captured": intent["amount"],
        "amount_refunded": 0,
        "billing_details": copied(method["billing_details"]),
        "calculated_statement_descriptor": "PAIDUP SANDBOX",
        "captured": True,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "fraud_details": {},
        "metadata": {},
        "outcome": _outcome("authorized", "approved_by_network", "Payment complete."),
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {"card": _charged_card(intent, method["card"]), "type": "card"},
        "radar_options": {},
        "receipt_url": None,
        "refunded": False,
        "status": "succeeded",
    }


def refused(charge: Json, code: str, message: str, reason: str) -> Json:
    """The same charge, failed."""
    return charge | {
        "amount_captured": 0,
        "captured": False,
        "failure_code": code,
        "failure_message": message,
        "outcome": _outcome("issuer_declined", "declined_by_network", message) | {"reason": reason},
        "paid": False,
        "status": "failed",
    }


def _outcome(kind: str, network: str, message: str) -> Json:
    return {
        **nulls("advice_code network_advice_code network_decline_code reason"),
        "network_status": network,
        "risk_level": "normal",
        "seller_message": message,
        "type": kind,
    }


_CARD_KEYS = "brand checks country exp_month exp_year fingerprint funding last4 regulated_status"


def _charged_card(intent: Json, card: Json) -> Json:
    return {
        **nulls("authorization_code installments mandate network_transaction_id three_d_secure wallet"),
        "amount_authorized": intent["amount"],
        "network": card["brand"],
        "network_token": {"used": False},
        **{key: card[key] for key in nulls(_CARD_KEYS)},
    }


def refund(created: int, charge: Json, amount: int, reason: str | None) -> Json:
    """Money given back, at once."""
    made = base("refund", "re", created) | nulls(
        "balance_transaction customer_account receipt_number source_transfer_reversal transfer_reversal"
    )
    del made["livemode"]
    return made | {
        "amount": amount,
        "charge": charge["id"],
        "currency": charge["currency"],
        "customer": charge["customer"],
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": reason,
        "status": "succeeded",
    }


def credit_note(created: int, invoice: Json, *, amount: int, number: str, lines: list[Json]) -> Json:
    """What is taken off an invoice; before or after its payment is for the caller to say."""
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
    """A line of a credit note: of a line of the invoice, or of its own."""
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


_EVIDENCE = (
    "access_activity_log billing_address cancellation_policy cancellation_policy_disclosure"
    " cancellation_rebuttal customer_communication customer_email_address customer_name customer_purchase_ip"
    " customer_signature duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id"
    " product_description receipt refund_policy refund_policy_disclosure refund_refusal_explanation"
    " service_date service_documentation shipping_address shipping_carrier shipping_date"
    " shipping_documentation shipping_tracking_number uncategorized_file uncategorized_text"
)


def dispute(created: int, charge: Json, reason: str, status: str, due_by: int) -> Json:
    """A charge called in question by the cardholder's bank."""
    card = charge["payment_method_details"]["card"]
    return base("dispute", "du", created) | {
        "amount": charge["amount"],
        "balance_transactions": [],
        "charge": charge["id"],
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": nulls(_EVIDENCE) | {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": due_by,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": status.startswith("warning"),
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": card["brand"],
                "case_type": "inquiry" if status.startswith("warning") else "chargeback",
                "network": card["brand"],
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": status,
    }


def event(created: int, kind: str, data: Json, api_version: str, request: Json, pending: int) -> Json:
    """A snapshot event."""
    return base("event", "evt", created) | {
        "api_version": api_version,
        "data": data,
        "pending_webhooks": pending,
        "request": request,
        "type": kind,
    }


def webhook_endpoint(created: int, url: str, enabled_events: list[str], api_version: str | None) -> Json:
    """An endpoint. Its secret is shown once, at creation, and kept in a note."""
    return base("webhook_endpoint", "we", created) | {
        "api_version": api_version,
        "application": None,
        "description": None,
        "enabled_events": enabled_events,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }


def account() -> Json:
    """The account behind every key."""
    return {
        "id": "acct_sandbox",
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": "sandbox@example.com",
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }
