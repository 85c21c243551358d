"""Payment methods, intents, charges, refunds and disputes."""

from __future__ import annotations

from collections.abc import Iterable

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.objects.base import NO_ADDRESS, NO_BILLING_DETAILS, base, nulls
from paidup_demo.sandbox.state import copied, new_id


def payment_method(created: int, kind: str, shown: Json, billing_details: Json) -> Json:
    """A payment method of this type; `shown` is what Stripe shows of it under the type's name."""
    details = {key: value for key, value in billing_details.items() if value is not None}
    address = NO_ADDRESS | (details.get("address") or {})
    return base("payment_method", "pm", created) | {
        "allow_redisplay": "unspecified",
        "billing_details": NO_BILLING_DETAILS | details | {"address": address},
        "customer": None,
        "customer_account": None,
        "metadata": {},
        "type": kind,
        kind: shown,
    }


def card(face: Json) -> Json:
    """A card as a PaymentMethod shows it; `face` has brand, last4, exp_month, exp_year, funding, country."""
    return {
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "display_brand": face["brand"],
        "fingerprint": new_id("", 16)[1:],
        "generated_from": None,
        "networks": {"available": [face["brand"]], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
        **face,
    }


_METHOD_OPTIONS: Json = {
    "amazon_pay": {},
    "bancontact": {"preferred_language": "en"},
    "boleto": {"expires_after_days": 3},
    "card": nulls("installments mandate_options network request_three_d_secure"),
    "ideal": {},
    "konbini": nulls("confirmation_number expires_after_days expires_at product_description"),
    "link": {"persistent_token": None},
    "oxxo": {"expires_after_days": 3},
    "sepa_debit": {},
    "us_bank_account": {"verification_method": "automatic"},
}


def options_of(kinds: Iterable[str]) -> Json:
    """A PaymentIntent's `payment_method_options` for these types."""
    return {kind: copied(_METHOD_OPTIONS[kind]) for kind in kinds}


def payment_intent(
    created: int, *, amount: int, currency: str, customer: str | None, kinds: list[str]
) -> Json:
    """A PaymentIntent that requires a payment method, of one of these types."""
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
        "payment_method_options": options_of(kinds),
        "payment_method_types": kinds,
        "status": "requires_payment_method",
    }


def setup_intent(created: int, customer: str) -> Json:
    """A SetupIntent that requires a payment method."""
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
        "payment_method_details": {"type": method["type"], method["type"]: _charged(intent, method)},
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


def pending(charge: Json, expected_on: str) -> Json:
    """The same charge, whose outcome the bank tells later: a debit. It is expected on that day."""
    kind = charge["payment_method_details"]["type"]
    charge["payment_method_details"][kind]["expected_debit_date"] = expected_on
    return charge | {
        "outcome": _outcome("authorized", "approved_by_network", "Payment complete."),
        "paid": False,
        "status": "pending",
    }


def _outcome(kind: str, network: str, message: str) -> Json:
    return {
        **nulls("advice_code network_advice_code network_decline_code reason"),
        "network_status": network,
        "risk_level": "normal",
        "seller_message": message,
        "type": kind,
    }


def _charged(intent: Json, method: Json) -> Json:
    """What a charge shows of its payment method."""
    kind = method["type"]
    shown = method[kind]
    if kind == "card":
        return _charged_card(intent, shown)
    if kind in _CHARGED:
        charged: Json = copied(_CHARGED[kind])
        return charged | ({"tax_id": shown["tax_id"]} if kind == "boleto" else {})
    if kind in ("ideal", "bancontact"):
        more = nulls(
            "bank_code bank_name preferred_language" if kind == "bancontact" else "bank transaction_id"
        )
        generated = nulls("bic generated_sepa_debit generated_sepa_debit_mandate iban_last4 verified_name")
        return {**more, **generated, **shown}
    if kind == "sepa_debit":
        kept = nulls("bank_code branch_code country fingerprint last4")
    else:
        kept = nulls("account_holder_type account_type bank_name fingerprint last4 routing_number")
    details = {key: shown[key] for key in kept}
    details |= {"expected_debit_date": None, "mandate": new_id("mandate")}
    return details | ({"payment_reference": new_id("", 15)[1:]} if kind == "us_bank_account" else {})


_CHARGED: Json = {
    "amazon_pay": {"funding": None, "transaction_id": None},
    "boleto": {},
    "konbini": {"store": {"chain": "lawson"}},
    "link": {"country": "US"},
    "oxxo": {"number": "12345678901234657890123456789012"},
}
_CARD_KEYS = "brand checks country exp_month exp_year fingerprint funding last4 regulated_status"


def _charged_card(intent: Json, card: Json) -> Json:
    return {
        **nulls("authorization_code installments mandate network_transaction_id three_d_secure"),
        "wallet": copied(card["wallet"]),
        "amount_authorized": intent["amount"],
        "network": card["brand"],
        "network_token": {"used": False},
        **{key: card[key] for key in nulls(_CARD_KEYS)},
    }


def refund(created: int, charge: Json, amount: int, reason: str | None) -> Json:
    """A refund that succeeded at once."""
    made = base("refund", "re", created) | nulls(
        "balance_transaction customer_account receipt_number source_transfer_reversal transfer_reversal"
    )
    del made["livemode"]
    return made | {
        "amount": amount,
        "charge": charge["id"],
        "currency": charge["currency"],
        "customer": charge["customer"],
        **_destination(charge["payment_method_details"]["type"]),
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": reason,
        "status": "succeeded",
    }


def _destination(kind: str) -> Json:
    return {"destination_details": {"card": {"type": "refund"}, "type": "card"}} if kind == "card" else {}


_EVIDENCE = (
    "access_activity_log billing_address cancellation_policy cancellation_policy_disclosure"
    " cancellation_rebuttal customer_communication customer_email_address customer_name customer_purchase_ip"
    " customer_signature duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id"
    " product_description receipt refund_policy refund_policy_disclosure refund_refusal_explanation"
    " service_date service_documentation shipping_address shipping_carrier shipping_date"
    " shipping_documentation shipping_tracking_number uncategorized_file uncategorized_text"
)


def balance_transaction(created: int, about: Json, amount: int) -> Json:
    """Money of a dispute that leaves the balance (below zero), or comes back. No fee is imitated."""
    return {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "created": created,
        "amount": amount,
        "available_on": created,
        "balance_type": "payments",
        "currency": about["currency"],
        "description": None,
        "exchange_rate": None,
        "fee": 0,
        "fee_details": [],
        "net": amount,
        "reporting_category": "dispute" if amount < 0 else "dispute_reversal",
        "source": about["id"],
        "status": "available",
        "type": "adjustment",
    }


def dispute(created: int, charge: Json, reason: str, status: str, due_by: int) -> Json:
    """A dispute of a charge."""
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
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": status.startswith("warning"),
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        **_disputed(charge["payment_method_details"], status),
        "reason": reason,
        "status": status,
    }


def _disputed(charged: Json, status: str) -> Json:
    """What a dispute shows of the payment method: Stripe shows cards and some wallets, and no bank debits."""
    if charged["type"] != "card":
        return {}
    card = charged["card"]
    details = {
        "brand": card["brand"],
        "case_type": "inquiry" if status.startswith("warning") else "chargeback",
        "network": card["brand"],
        "network_reason_code": "10.4",
    }
    return {"payment_method_details": {"card": details, "type": "card"}}
