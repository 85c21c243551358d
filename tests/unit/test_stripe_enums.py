"""Each enum of Stripe's that the code switches on, held against the types of the installed SDK.

When the SDK is raised, a failure here names what is new: decide what it means, then add it to the table.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from paidup.domain.decisions import InvoiceSnapshot, InvoiceStatus, decide
from paidup.domain.entitlements import ENDED
from paidup.domain.payment_facts import IntentFacts, PaymentFacts
from paidup.domain.reversals import reason
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.stripe_api.client import OF_ONE_OBJECT
from paidup.stripe_api.gateway import RUNNING
from tests.structure.sources import ROOT
from tests.support.sdk_shapes import fields, words

ENUMS: dict[tuple[Any, str], str] = {
    (stripe.Invoice, "status"): "draft open paid uncollectible void",
    (stripe.Invoice, "billing_reason"): (
        "automatic_pending_invoice_item_invoice manual quote_accept subscription subscription_create"
        " subscription_cycle subscription_threshold subscription_update upcoming"
    ),
    (stripe.Invoice, "collection_method"): "charge_automatically send_invoice",
    (stripe.Invoice.Parent, "type"): "quote_details subscription_details",
    (stripe.InvoiceLineItem.Parent, "type"): "invoice_item_details subscription_item_details",
    (stripe.InvoicePayment.Payment, "type"): "charge payment_intent payment_record",
    (stripe.PaymentIntent, "status"): (
        "canceled processing requires_action requires_capture requires_confirmation"
        " requires_payment_method succeeded"
    ),
    (stripe.Subscription, "status"): (
        "active canceled incomplete incomplete_expired past_due paused trialing unpaid"
    ),
    (stripe.Subscription, "collection_method"): "charge_automatically send_invoice",
    (stripe.Subscription.BillingMode, "type"): "classic flexible",
    (stripe.Subscription.PauseCollection, "behavior"): "keep_as_draft mark_uncollectible void",
    (stripe.Dispute, "status"): (
        "appeal_needs_response appeal_under_review lost needs_response prevented under_review"
        " warning_closed warning_needs_response warning_under_review won"
    ),
    (stripe.checkout.Session, "mode"): "payment setup subscription",
    (stripe.checkout.Session, "status"): "complete expired open",
    (stripe.checkout.Session, "payment_status"): "no_payment_required paid unpaid",
    (stripe.checkout.Session, "ui_mode"): "elements embedded_page form hosted_page",
    (stripe.CreditNote, "status"): "issued void",
    (stripe.CreditNote, "type"): "mixed post_payment pre_payment",
    (stripe.Price, "type"): "one_time recurring",
    (stripe.Price, "billing_scheme"): "per_unit tiered",
    (stripe.Price, "tiers_mode"): "graduated volume",
    (stripe.Price.Recurring, "interval"): "day month week year",
    (stripe.Price.Recurring, "usage_type"): "licensed metered",
}
UNTYPED: dict[Any, str] = {
    stripe.Refund: "`pending`, `requires_action`, `succeeded`, `failed`, or `canceled`",
    stripe.WebhookEndpoint: "It can be `enabled` or `disabled`",
    stripe.InvoicePayment: "one of `open`, `paid`, or `canceled`",
}
"""Statuses that the SDK types as `str`; its docstrings list them."""
RATE_LIMIT_REASONS = {
    "global-rate",
    "global-concurrency",
    "endpoint-rate",
    "endpoint-concurrency",
    "resource-specific",
}
"""https://docs.stripe.com/rate-limits: header Stripe-Rate-Limited-Reason, not typed in the SDK."""
FOLLOWED = (
    "invoice.", "invoice_payment.", "payment_intent.", "customer.subscription.", "refund.",
    "charge.dispute.", "credit_note.", "subscription_schedule.", "checkout.session.",
)  # fmt: skip
NOT_NEEDED_TYPES = """
    charge.dispute.funds_reinstated charge.dispute.funds_withdrawn
    checkout.session.async_payment_failed checkout.session.async_payment_succeeded
    checkout.session.completed checkout.session.expired
    credit_note.updated
    customer.subscription.paused customer.subscription.pending_update_applied
    customer.subscription.pending_update_expired customer.subscription.resumed
    customer.subscription.trial_will_end
    invoice.created invoice.deleted invoice.finalization_failed invoice.finalized invoice.overdue
    invoice.overpaid invoice.payment_attempt_required invoice.sent invoice.upcoming invoice.updated
    invoice.will_be_due
        payment_intent.amount_capturable_updated payment_intent.created payment_intent.partially_funded
    payment_intent.requires_action
    subscription_schedule.aborted subscription_schedule.canceled subscription_schedule.completed
    subscription_schedule.created subscription_schedule.expiring subscription_schedule.released
    subscription_schedule.updated
"""
NOT_NEEDED = set(NOT_NEEDED_TYPES.split())
"""What the server can do without: another event, or a read, tells the same. Some are handled, too."""


@pytest.mark.parametrize(("cls", "field"), ENUMS, ids=[f"{cls.__qualname__}.{field}" for cls, field in ENUMS])
def test_an_enum_is_the_one_that_the_code_was_written_for(cls: Any, field: str) -> None:
    assert words(fields(cls)[field]) == set(ENUMS[cls, field].split())


@pytest.mark.parametrize("cls", UNTYPED, ids=lambda cls: cls.__qualname__)
def test_a_status_without_a_type_is_the_one_in_the_docstring(cls: Any) -> None:
    text = inspect.getsource(cls).partition("    status: ")[2].split('"""')[1]
    assert UNTYPED[cls] in text


def test_every_event_type_is_handled_or_left_on_purpose() -> None:
    """A type that Stripe adds to those of our objects is named here; none that is handled is misspelt."""
    known = words(fields(stripe.Event)["type"])
    assert set(HANDLED_TYPES) <= known
    assert known >= NOT_NEEDED
    assert {kind for kind in known if kind.startswith(FOLLOWED)} <= NOT_NEEDED | set(HANDLED_TYPES)


def test_every_status_of_a_payment_is_decided() -> None:
    """None is unexpected, apart from requires_capture, which Paidup never asks for."""
    unexpected = set()
    for status in words(fields(stripe.PaymentIntent)["status"]):
        decision = decide(_known(), PaymentFacts(payments=(_payment(status),)))
        if "unexpected" in decision.reason:
            unexpected.add(status)
    assert unexpected == {"requires_capture"}


def test_every_status_of_a_subscription_is_running_ended_or_not_yet_begun() -> None:
    statuses = words(fields(stripe.Subscription)["status"])
    assert set(RUNNING) | set(ENDED) | {"incomplete"} == statuses
    assert not set(RUNNING) & set(ENDED)


def test_every_status_of_a_reversal_has_a_text_for_the_customer() -> None:
    """A status without one is shown as Stripe's bare words."""
    refunds = {"pending", "requires_action", "succeeded", "failed", "canceled"}
    disputes = words(fields(stripe.Dispute)["status"])
    notes = words(fields(stripe.CreditNote)["status"])
    for kind, statuses in (("refund", refunds), ("dispute", disputes), ("credit_note", notes)):
        for status in statuses:
            assert reason(kind, status) != f"{kind} {status}".replace("_", " "), (kind, status)


def test_a_reason_of_a_rate_limit_is_one_of_stripes() -> None:
    assert OF_ONE_OBJECT in RATE_LIMIT_REASONS
    errors = words(fields(stripe.PaymentIntent.LastPaymentError)["code"])
    assert {"lock_timeout", "rate_limit"} <= errors


SWITCHED = {
    "status", "billing_reason", "collection_method", "usage_type", "billing_scheme", "tiers_mode", "behavior",
}  # fmt: skip


def test_every_word_that_the_code_compares_with_is_one_of_stripes_or_our_own() -> None:
    """A word that Stripe does not have is never true: no comparison in the server is with such a one."""
    ours = {status.value for status in InvoiceStatus}
    stripes = {word for listed in ENUMS.values() for word in listed.split()}
    listed = {word for text in UNTYPED.values() for word in re.findall("`([a-z_]+)`", text)}
    found = set(_compared())
    assert found
    assert found <= ours | stripes | listed


def _compared() -> Iterator[str]:
    """The words in `x.status == "word"` and `x.status in ("word", ...)`, anywhere in the server."""
    for path in (ROOT / "server" / "paidup").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare) or not isinstance(node.left, ast.Attribute):
                continue
            if node.left.attr in SWITCHED and "client" not in path.parts:
                for constant in (part for other in node.comparators for part in ast.walk(other)):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        yield constant.value


def _known() -> InvoiceSnapshot:
    return InvoiceSnapshot("in_1", InvoiceStatus.OPEN, "cus_1", "usd", 100, "pi_1")


def _payment(status: str) -> IntentFacts:
    received = 100 if status == "succeeded" else 0
    return IntentFacts("pi_1", status, "cus_1", "usd", 100, received, "in_1", None)
