"""Stripe's objects -> facts: held against Stripe's own samples and against the installed SDK."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import stripe

from paidup.domain.payment_facts import Attempt, LineFacts, PaymentError, PaymentFacts
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.events import Event, payload
from paidup.stripe_api.schemas import (
    InvoicePayment,
    Line,
    ListOf,
    ObjectId,
    PaymentIntent,
    StripeInvoice,
    StripeSubscription,
    decode,
)
from paidup_demo.sandbox.settings import API_VERSION as SANDBOX_VERSION

SAMPLES = Path(__file__).with_name("stripe_samples.json")

LINE = {
    "amount": 2900,
    "currency": "usd",
    "period": {"start": 1, "end": 2},
    "quantity": 1,
    "id": "il_1",
    "pricing": {
        "type": "price_details",
        "price_details": {"price": "price_1", "product": "prod_1"},
        "unit_amount_decimal": "2900",
    },
    "parent": {
        "type": "subscription_item_details",
        "subscription_item_details": {"proration": False, "subscription": "sub_1"},
        "invoice_item_details": None,
    },
}
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "status": "succeeded",
    "currency": "usd",
    "amount": 2900,
    "amount_received": 2900,
    "customer": "cus_1",
    "last_payment_error": None,
}
INVOICE = {
    "id": "in_1",
    "object": "invoice",
    "status": "open",
    "customer": "cus_1",
    "currency": "usd",
    "amount_due": 2900,
    "amount_paid": 0,
    "amount_remaining": 2900,
    "total": 2900,
    "billing_reason": "subscription_create",
    "created": 5,
    "parent": {
        "type": "subscription_details",
        "subscription_details": {"subscription": "sub_1", "metadata": {"paidup_account": "ada"}},
    },
    "lines": {"object": "list", "data": [LINE], "has_more": False},
}


def invoice(**changes: Any) -> StripeInvoice:
    return decode(StripeInvoice, json.dumps({**INVOICE, **changes}))


def link(name: str, intent: Any, created: int = 1, **changes: Any) -> dict[str, Any]:
    """An InvoicePayment."""
    paid_with = {"type": "payment_intent", "payment_intent": intent}
    return {
        "id": name,
        "invoice": "in_1",
        "status": "open",
        "created": created,
        "payment": paid_with,
        **changes,
    }


def listed(*data: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(data), "has_more": False}


@cache
def sample(kind: str) -> bytes:
    return json.dumps(json.loads(SAMPLES.read_text())["samples"][kind]).encode()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("invoice", StripeInvoice),
        ("invoice_payment", InvoicePayment),
        ("payment_intent", PaymentIntent),
        ("line_item", Line),
        ("subscription", StripeSubscription),
        ("event", Event),
        ("refund", ObjectId),
        ("dispute", ObjectId),
    ],
)
def test_stripes_own_samples_are_read(kind: str, shape: type[Any]) -> None:
    read = msgspec.json.decode(sample(kind), type=shape)
    told = json.loads(sample(kind))
    assert {name: told[name] for name in ("id", "status", "type") if hasattr(read, name)} == {
        name: getattr(read, name) for name in ("id", "status", "type") if hasattr(read, name)
    }


def test_stripes_own_sample_of_an_invoice_becomes_facts() -> None:
    facts = decode(StripeInvoice, sample("invoice")).facts()
    assert facts.invoice is not None
    assert (facts.invoice.currency, facts.invoice.amount_due_minor) == ("usd", 1000)
    assert [line.amount_minor for line in facts.invoice.lines] == [1000]


@pytest.mark.parametrize(
    ("shape", "sdk"),
    [
        (StripeInvoice, stripe.Invoice),
        (InvoicePayment, stripe.InvoicePayment),
        (PaymentIntent, stripe.PaymentIntent),
        (StripeSubscription, stripe.Subscription),
        (Line, stripe.InvoiceLineItem),
        (Event, stripe.Event),
    ],
)
def test_every_field_that_is_read_is_one_that_the_sdk_knows(
    shape: type[msgspec.Struct], sdk: type[stripe.StripeObject]
) -> None:
    """When the SDK is raised and a field has moved, this says so."""
    known = {"related_object"} if shape is Event else set[str]()  # a thin event's, of another class
    for base in sdk.__mro__:
        known |= set(getattr(base, "__annotations__", {}))
    assert {field.encode_name for field in msgspec.structs.fields(shape)} <= known


def test_the_pinned_version_is_the_one_that_the_shapes_are_written_for() -> None:
    """Read Stripe's changelog between the two before raising the SDK."""
    assert API_VERSION == stripe.api_version == "2026-10-28.endive"
    assert SANDBOX_VERSION == API_VERSION


def test_an_invoice_becomes_facts() -> None:
    facts = invoice().facts()
    assert facts.invoice is not None
    assert facts.attempt is None
    assert (facts.invoice.id, facts.invoice.subscription, facts.invoice.account) == ("in_1", "sub_1", "ada")
    assert facts.invoice.lines == (
        LineFacts("price_1", 2900, 1, False, 1, 2, currency="usd", product="prod_1"),
    )
    assert facts.payments == ()


def test_an_invoice_without_a_subscription_names_none() -> None:
    facts = invoice(parent=None).facts().invoice
    assert facts is not None
    assert (facts.subscription, facts.account) == (None, None)


def test_lines_that_stripe_cut_off_are_noticed() -> None:
    facts = invoice(lines={"data": [LINE], "has_more": True}).facts().invoice
    assert facts is not None
    assert not facts.lines_complete


@pytest.mark.parametrize("parent", ["subscription_item_details", "invoice_item_details"])
def test_a_proration_is_seen_in_either_parent(parent: str) -> None:
    line = {**LINE, "amount": -450, "parent": {"type": parent, parent: {"proration": True}}}
    assert decode(ListOf[Line], json.dumps(listed(line))).data[0].facts() == LineFacts(
        "price_1", -450, 1, True, 1, 2, currency="usd", product="prod_1"
    )


def test_a_line_without_price_quantity_and_parent_is_one_of_nothing_known() -> None:
    line = {"id": "il_1", "amount": 5, "period": {"start": 1, "end": 2}, "quantity": None, "parent": None}
    assert decode(ListOf[Line], json.dumps(listed(line))).data[0].facts() == LineFacts(
        None, 5, 1, False, 1, 2
    )


def test_expanded_payments_come_oldest_first_and_without_the_canceled() -> None:
    later = {**INTENT, "id": "pi_2"}
    shape = invoice(
        payments=listed(
            link("inpay_2", later, created=20),
            link("inpay_1", INTENT, created=10),
            link("inpay_3", {**INTENT, "id": "pi_3"}, created=30, status="canceled"),
            link("inpay_4", "pi_4", created=40),
        )
    )
    facts = shape.facts()
    assert [(payment.intent, payment.invoice) for payment in facts.payments] == [
        ("pi_1", "in_1"),
        ("pi_2", "in_1"),
    ]


def test_the_intent_is_known_from_the_client_secret_or_from_the_link() -> None:
    secret = {"client_secret": "pi_1_secret_abc", "type": "payment_intent"}
    assert invoice(confirmation_secret=secret).intent_id == "pi_1"
    assert invoice(payments=listed(link("inpay_1", "pi_2"))).intent_id == "pi_2"
    assert invoice(payments=listed(link("inpay_1", INTENT))).intent_id == "pi_1"
    assert invoice(payments=listed()).intent_id is invoice().intent_id is None


def test_a_failed_attempt_says_why() -> None:
    declined = {"code": "card_declined", "decline_code": "lost_card", "message": "No.", "type": "card_error"}
    facts = decode(PaymentIntent, json.dumps({**INTENT, "last_payment_error": declined})).facts()
    assert facts.error == PaymentError("card_declined", "No.", "lost_card")
    inner = {
        **declined,
        "code": "resource_missing",
        "type": "invalid_request_error",
        "message": "No such pm_1",
    }
    facts = decode(PaymentIntent, json.dumps({**INTENT, "last_payment_error": inner})).facts()
    assert facts.error is not None
    assert facts.error.message == "The payment did not go through.", "only a card error's is for customers"
    silent = decode(
        PaymentIntent, json.dumps({**INTENT, "last_payment_error": {"type": "api_error"}})
    ).facts()
    assert silent.error == PaymentError("payment_failed", "The payment did not go through.")


def test_the_reason_of_a_failed_debit_is_written_for_the_merchant() -> None:
    """Stripe calls it a card error all the same: seen in dev/examples/stripe of github.com/Dolibarr/dolibarr,
    webhook_ipn_paymentintent_failed_sepa.txt. "Collect a new mandate" is no text for the customer.
    """
    refused = {
        "code": "",
        "decline_code": "generic_decline",
        "message": "Your customer's account information is incorrect. Collect a new mandate.",
        "type": "card_error",
        "payment_method": {"type": "sepa_debit"},
    }
    facts = decode(PaymentIntent, json.dumps({**INTENT, "last_payment_error": refused})).facts()
    message = "The SEPA Direct Debit did not go through."
    assert facts.error == PaymentError("payment_failed", message, "generic_decline")
    card = {**refused, "message": "Your card was declined.", "payment_method": {"type": "card"}}
    facts = decode(PaymentIntent, json.dumps({**INTENT, "last_payment_error": card})).facts()
    assert facts.error is not None
    assert facts.error.message == "Your card was declined."


def test_an_events_object_stays_bytes_until_its_type_is_known() -> None:
    body = {
        "id": "evt_1",
        "type": "x.y",
        "livemode": False,
        "created": 1,
        "data": {"object": {"id": "x_1", "object": "x"}},
    }
    event = decode(Event, json.dumps(body))
    assert event.data is not None
    assert decode(ObjectId, event.data.object) == ObjectId("x_1")
    assert (event.about(), event.kind) == ("x_1", "x.y")
    assert payload(event, ObjectId, "2026-10-28.endive") is None, "of a version that is not named"


def test_a_thin_event_names_its_object_and_one_that_names_none_is_refused() -> None:
    thin = {"id": "evt_1", "type": "v1.invoice.paid", "livemode": False, "related_object": {"id": "in_1"}}
    event = decode(Event, json.dumps(thin))
    assert (event.about(), event.kind) == ("in_1", "invoice.paid")
    nameless = decode(Event, json.dumps({**thin, "related_object": None}))
    with pytest.raises(msgspec.ValidationError, match="names no object"):
        nameless.about()


@pytest.mark.parametrize("missing", ["id", "currency", "amount_due", "amount_paid", "lines", "created"])
def test_an_invoice_without_what_is_needed_is_refused(missing: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=missing):
        decode(StripeInvoice, json.dumps({name: value for name, value in INVOICE.items() if name != missing}))


def test_facts_say_nothing_that_was_not_said() -> None:
    assert PaymentFacts() == PaymentFacts(invoice=None, payments=(), attempt=None)
    assert {attempt.value for attempt in Attempt} == {"failed", "action_required"}
