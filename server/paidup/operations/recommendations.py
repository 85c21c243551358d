"""Say what an invoice is waiting for, and what to do about it. Pure functions: reports in, sentences out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.delayed_methods import ProcessingPayment
from paidup.domain.stages import Stage
from paidup.operations.formatting import format_duration
from paidup.operations.invoice_report import GrantDetails, InvoiceDetails, StoredEvent, TimelineEvent
from paidup.payments.timeline import TimelineEventType
from paidup.payments.unclaimed import PARKED_UNCLAIMED

OVERDUE = timedelta(seconds=60)
"""A check that is later than this means that no reconciler runs."""

_RECOMMENDATIONS = {
    InvoiceStatus.OPEN: "Nothing yet: the customer has not confirmed a payment.",
    InvoiceStatus.REQUIRES_ACTION: "The customer must complete 3D Secure (3DS) on the payment screen.",
    InvoiceStatus.PROCESSING: "Wait: the bank is processing the payment, which may take days.",
    InvoiceStatus.FAILED: "The customer should try another card: the same invoice can still be paid.",
    InvoiceStatus.VOID: "The invoice is void and nothing was paid: the customer can choose a plan again.",
    InvoiceStatus.REVERSED: "The payment and its credits were reversed: contact the customer.",
}


def pending_steps(
    details: InvoiceDetails | None,
    timeline: Sequence[TimelineEvent],
    events: Sequence[StoredEvent],
    at: datetime,
) -> list[str]:
    """Return what the invoice is waiting for; empty if nothing."""
    pending = [describe_event(event, at) for event in events if event.handled_at is None]
    if details is None:
        return pending or ["Nothing: this invoice is not tracked."]
    if details.status.terminal:
        return pending
    if stripe_status := _latest_from_stripe(timeline, at):
        pending.insert(0, stripe_status)
    if details.next_check_at:
        late = at - details.next_check_at
        due = f"in {format_duration(-late)}" if late <= timedelta() else "due now"
        if late > OVERDUE:
            due = f"overdue by {format_duration(late)}"
        pending.append(f"The reconciler's next check is {due} ({details.checks_made} made).")
    return pending


def _latest_from_stripe(timeline: Sequence[TimelineEvent], at: datetime) -> str | None:
    verifications = _of_type(timeline, TimelineEventType.VERIFICATION_ANSWERED)
    if not verifications:
        webhooks = _of_type(timeline, TimelineEventType.WEBHOOK_RECEIVED)
        if not webhooks:
            return "Not verified with Stripe yet, and no webhook was received."
        ago = format_duration(at - webhooks[-1].at)
        return f"Stripe sent {webhooks[-1].detail.get('type')} {ago} ago; not verified with Stripe yet."
    last = verifications[-1]
    payments = ", ".join(map(str, last.detail.get("payments") or [])) or "none"
    ago = format_duration(at - last.at)
    return f"Stripe answered {ago} ago: invoice {last.detail.get('invoice_status')}, payment {payments}."


def describe_event(event: StoredEvent, at: datetime) -> str:
    """Say why a stored event had no effect, and when it is retried."""
    if event.handled_at is not None:
        ago = format_duration(at - event.received_at)
        return f"{event.type} {event.id} was stored {ago} ago, with the outcome {event.outcome}."
    reason = event.error or "it was not handled yet"
    if event.unknown_reference:
        reason += f" ({event.unknown_reference})"
    if event.next_attempt_at is None:
        return f"{event.type} {event.id} was given up after {event.attempts} tries: {reason}."
    remaining = event.next_attempt_at - at
    retry = f"in {format_duration(remaining)}" if remaining > timedelta() else "now"
    return f"{event.type} {event.id} is retried {retry} ({event.attempts} tries so far): {reason}."


def recommendation(
    details: InvoiceDetails | None,
    grants: Sequence[GrantDetails],
    timeline: Sequence[TimelineEvent],
    events: Sequence[StoredEvent],
    at: datetime,
) -> str:
    """Return one sentence: what an operator should do about this invoice."""
    if details is None:
        waiting = [event for event in events if event.handled_at is None]
        if not waiting:
            return "Nothing: Paidup does not track this invoice."
        # One that has arrived this moment says less than one that has failed.
        return event_recommendation(next((event for event in waiting if event.error), waiting[0]))
    if details.status is InvoiceStatus.ACTIVE:
        return _recommendation_for_active(details, grants)
    if not details.status.terminal:
        unhandled = next((event for event in events if event.handled_at is None and event.error), None)
        if unhandled:
            return event_recommendation(unhandled)
        if details.next_check_at and at - details.next_check_at > OVERDUE:
            return "Start the reconciler (`paidup work`): its check of this invoice is overdue."
    if details.stage in (Stage.VERIFYING, Stage.DELAYED):
        return (
            "It is paid, and one of its prices is unknown: add the price's lookup key to the plans file and"
            " restart. The next check grants the credits."
        )
    if details.status is InvoiceStatus.OPEN and _payment_succeeded(timeline):
        return "Nothing: the payment succeeded; credits are granted once Stripe marks the invoice as paid."
    if details.processing is not None:
        return _recommendation_for_days(details.processing)
    return _RECOMMENDATIONS[details.status]


def _recommendation_for_days(processing: ProcessingPayment) -> str:
    if processing.kind == "voucher":
        until = f" It can be paid until {processing.pay_by:%d %B %Y}." if processing.pay_by else ""
        return (
            f"Wait: the customer got a {processing.name} voucher on {processing.since:%d %B}, and Stripe"
            f" shows no payment of it yet.{until} To let them pay otherwise, cancel its PaymentIntent."
        )
    return (
        f"Wait: the {processing.name} began on {processing.since:%d %B}, and the bank"
        f" usually answers by {processing.expected_at:%d %B %Y}. Nothing has to be paid again."
    )


def _recommendation_for_active(details: InvoiceDetails, grants: Sequence[GrantDetails]) -> str:
    if not grants:
        return "The invoice is active but has no grant: run `paidup audit` and inspect the ledger."
    own = [grant for grant in grants if not grant.unit]
    granted = sum(grant.credits for grant in own)
    left = sum(grant.remaining for grant in own)
    others = "".join(
        f"; {grant.credits} {grant.unit}, {grant.remaining} remain" for grant in grants if grant.unit
    )
    unpublished = details.published_version < details.version
    publishing = "; browsers are notified within seconds" if unpublished else ""
    return f"Nothing: {granted} credits were granted, {left} of them remain{others}{publishing}."


def _payment_succeeded(timeline: Sequence[TimelineEvent]) -> bool:
    verifications = _of_type(timeline, TimelineEventType.VERIFICATION_ANSWERED)
    return bool(verifications) and "succeeded" in (verifications[-1].detail.get("payments") or [])


def event_recommendation(event: StoredEvent) -> str:
    """Return one sentence: what an operator should do about an event that had no effect."""
    if event.handled_at is not None:
        return "Nothing: no event of this type changes a payment."
    replay = f"then run `paidup replay {event.id}`. Or end the alarm with `paidup dismiss {event.id}`."
    error = event.error or ""
    if error == PARKED_UNCLAIMED:
        return "Nothing: it is handled once its Checkout Session is claimed (`paidup claim-link`)."
    if "unknown_price" in error:
        price = event.unknown_reference or "its price"
        return (
            f"Add the lookup key of {price} to the plans file (for a price that is no longer sold: to"
            f" previous_lookup_keys), restart, {replay}"
        )
    if "unknown_currency" in error:
        price = event.unknown_reference or "its price"
        return f"Give {price} an amount in this payment's currency in Stripe (currency_options), {replay}"
    if "unknown_customer" in error:
        customer = event.unknown_reference or "this customer"
        if not customer.startswith(("cus_", "this ")):
            return f"No account is named {customer!r}, as its metadata says: let that user sign in, {replay}"
        how = "paidup link-customer, or a token with `stripe_customer`"
        return f"Link {customer} to an account ({how}), {replay}"
    if "needs_refetch" in error and event.type.startswith("checkout."):
        return f"Stripe has made no invoice for this payment so far. If it makes none, ask it why, {replay}"
    if event.given_up:
        return f"Fix the cause of its error, {replay}"
    return "Wait for the next retry, or fix the cause of its error."


def _of_type(timeline: Sequence[TimelineEvent], event_type: TimelineEventType) -> list[TimelineEvent]:
    return [event for event in timeline if event.event_type == event_type]
