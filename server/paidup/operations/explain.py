"""The answer to "why am I not active?": all that is known of an invoice, what is awaited, what to do.

Owns the gathering (from our own tables alone, so it answers with Stripe away) and the
judgement, which is pure: rows in, sentences out. `explain_terminal.py` and the operators'
page render the same explanation. Refuses to change anything and to ask Stripe.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from tortoise.expressions import Q

from paidup.clock import now
from paidup.db.connection import storage_errors
from paidup.db.models import Account, CreditGrant, Invoice, StripeEvent, TimelineEntry
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import Stage, stage_of
from paidup.payments.outcomes import EventOutcome
from paidup.payments.timeline import TimelineEventType
from paidup.stripe_api.schemas import Event, decode
from paidup.stripe_api.schemas import Invoice as StripeInvoice

NEWEST = 20
"""How many invoices, and how many unplaced events, are shown of one reference."""
STEPS = 500
OVERDUE = timedelta(seconds=60)
"""How late a check may be before it says that no reconciler runs."""
KEPT_SHOWN = timedelta(days=7)
"""How long events of a type that is not handled are shown."""
LOOKED_FOR = "an invoice, a PaymentIntent, a subscription, a Stripe customer and an external id"


# What is known


class StoredEvent(msgspec.Struct, frozen=True):
    """A stored event about an invoice. `unplaced` says what of it we do not know, where that is why."""

    id: str
    type: str
    received_at: datetime
    handled_at: datetime | None
    attempts: int
    next_attempt_at: datetime | None
    outcome: str | None
    error: str | None
    invoice: str | None = None
    unplaced: str | None = None

    @property
    def given_up(self) -> bool:
        return self.handled_at is None and self.next_attempt_at is None


class TimelineEvent(msgspec.Struct, frozen=True):
    """One entry of the timeline; `after_ms` counts from when the invoice was made."""

    at: datetime
    after_ms: int
    what: str
    detail: dict[str, Any]


class Grant(msgspec.Struct, frozen=True):
    credits: int
    remaining: int
    state: str
    expires_at: datetime | None
    frozen: int = 0


class InvoiceDetails(msgspec.Struct, frozen=True):
    """Our row of an invoice."""

    account: str
    customer: str
    subscription: str | None
    payment_intent: str | None
    plan: str | None
    billing_reason: str | None
    amount_due_minor: int
    currency: str
    status: InvoiceStatus
    stage: Stage
    error: dict[str, Any] | None
    version: int
    published_version: int
    credits: int
    credits_reversed: int
    settled_via: str | None
    settled_at: datetime | None
    next_check_at: datetime | None
    checks_made: int
    created_at: datetime


class InvoiceReport(msgspec.Struct, frozen=True):
    """One invoice. `facts` is None where only its events are known here."""

    invoice: str
    facts: InvoiceDetails | None
    grants: list[Grant]
    steps: list[TimelineEvent]
    events: list[StoredEvent]
    awaited: list[str]
    recommendation: str


class Explanation(msgspec.Struct, frozen=True):
    """All that is known of `reference`, newest invoice first.

    `older` invoices are left out; `unplaced` events mention it and had no effect: they could
    not be handled yet, or nobody handles their type.
    """

    reference: str
    at: datetime
    account: str | None
    balance: int | None
    stories: list[InvoiceReport]
    older: int
    unplaced: list[StoredEvent]

    @property
    def found(self) -> bool:
        return bool(self.account or self.stories or self.unplaced)


# Gathering


async def explain(reference: str) -> Explanation:
    """What is known of an invoice, PaymentIntent, subscription, customer or external id.

    Raises StorageUnavailable.
    """
    at = now()
    with storage_errors():
        account = await Account.filter(Q(stripe_customer=reference) | Q(external_id=reference)).first()
        named = Q(id=reference) | Q(payment_intent=reference) | Q(subscription=reference)
        found = Invoice.filter(named | Q(account_id=account.id) if account else named)
        rows = await found.order_by("-created_at").limit(NEWEST).select_related("account")
        older = await found.count() - len(rows)
        stories = [await _story(row.id, row, at) for row in rows]
        if not rows and await TimelineEntry.exists(invoice=reference):
            stories = [await _story(reference, None, at)]
        unplaced = await _unplaced(reference, account, stories, at)
    owner = account or (rows[0].account if rows else None)
    return Explanation(
        reference=reference,
        at=at,
        account=owner.external_id if owner else None,
        balance=owner.balance if owner else None,
        stories=stories,
        older=older,
        unplaced=unplaced,
    )


async def _story(invoice: str, row: Invoice | None, at: datetime) -> InvoiceReport:
    entries = await TimelineEntry.filter(invoice=invoice).order_by("-id").limit(STEPS)
    entries.sort(key=lambda entry: (entry.at, entry.id))
    named = {entry.detail["event"] for entry in entries if entry.detail and "event" in entry.detail}
    events = await StripeEvent.filter(id__in=list(named)).order_by("received_at")
    grants = await CreditGrant.filter(invoice_id=invoice).order_by("installment")
    began = row.created_at if row else (entries[0].at if entries else at)
    facts = _facts(row) if row else None
    steps = [
        TimelineEvent(
            entry.at, round((entry.at - began).total_seconds() * 1000), entry.event_type, entry.detail or {}
        )
        for entry in entries
    ]
    stored = [stored_event(event) for event in events]
    given = [Grant(each.credits, each.remaining, each.state, each.expires_at, each.frozen) for each in grants]
    return InvoiceReport(
        invoice=invoice,
        facts=facts,
        grants=given,
        steps=steps,
        events=stored,
        awaited=awaited(facts, steps, stored, at),
        recommendation=recommendation(facts, given, steps, stored, at),
    )


async def _unplaced(
    reference: str, account: Account | None, stories: Sequence[InvoiceReport], at: datetime
) -> list[StoredEvent]:
    """Events that mention it and had no effect: of an invoice, customer, price or type not known here."""
    shown = {event.id for story in stories for event in story.events}
    found: dict[str, StoredEvent] = {}
    for text in {reference, account.stripe_customer if account else None}:
        if text is None or not text.startswith(("in_", "pi_", "sub_", "cus_")):
            continue  # an external id could be any word of a payload
        mentioning = StripeEvent.filter(payload__contains=f'"{text}"').order_by("-received_at").limit(NEWEST)
        rows = await mentioning.filter(handled_at__isnull=True)
        if not stories and account is None:
            # Of what is known, most events have no effect, and that is no news.
            rows += await mentioning.filter(
                outcome=EventOutcome.UNHANDLED_TYPE, received_at__gte=at - KEPT_SHOWN
            )
        found.update({row.id: stored_event(row) for row in rows})
    return [event for event in found.values() if event.id not in shown]


def _facts(row: Invoice) -> InvoiceDetails:
    return InvoiceDetails(
        account=row.account.external_id,
        customer=row.customer,
        subscription=row.subscription,
        payment_intent=row.payment_intent,
        plan=row.plan,
        billing_reason=row.billing_reason,
        amount_due_minor=row.amount_due_minor,
        currency=row.currency,
        status=row.status,
        stage=stage_of(row.status),
        error=row.error,
        version=row.version,
        published_version=row.published_version,
        credits=row.credits_quoted,
        credits_reversed=row.credits_reversed,
        settled_via=row.settled_via,
        settled_at=row.settled_at,
        next_check_at=row.next_check_at,
        checks_made=row.checks_made,
        created_at=row.created_at,
    )


# Judgement, without I/O


def stored_event(row: StripeEvent) -> StoredEvent:
    """A stored event, and what of its payload is not known here."""
    invoice, unplaced = _looked_into(row.payload, row.error if row.handled_at is None else None)
    return StoredEvent(
        id=row.id,
        type=row.type,
        received_at=row.received_at,
        handled_at=row.handled_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        outcome=row.outcome,
        error=row.error,
        invoice=invoice,
        unplaced=unplaced,
    )


def _looked_into(payload: str, error: str | None) -> tuple[str | None, str | None]:
    """The invoice that an event is about, and the customer or prices that we do not know."""
    try:
        event = decode(Event, payload)
        about = event.about()
        invoice = about if about.startswith("in_") else None
        if invoice is None or event.data is None or error is None:
            return invoice, None
        facts = decode(StripeInvoice, event.data.object).facts().invoice
    except msgspec.DecodeError:
        return None, None  # another shape: its text is kept all the same
    if facts is None:
        return invoice, None
    if "unknown_price" in error:
        return invoice, ", ".join(sorted({line.price for line in facts.lines if line.price})) or None
    return invoice, facts.customer if "unknown_customer" in error else None


def awaited(
    facts: InvoiceDetails | None, steps: Sequence[TimelineEvent], events: Sequence[StoredEvent], at: datetime
) -> list[str]:
    """What this invoice waits for; empty where its wait is over."""
    waits = [event_waits(event, at) for event in events if event.handled_at is None]
    if facts is None:
        return waits or ["Nothing: no row was made of this invoice."]
    if facts.status.terminal:
        return waits
    if said := _stripe_said(steps, at):
        waits.insert(0, said)
    if facts.next_check_at:
        late = at - facts.next_check_at
        due = f"overdue by {span(late)}" if late > timedelta() else f"in {span(-late)}"
        waits.append(f"The reconciler's next check is {due} ({facts.checks_made} made).")
    return waits


def _stripe_said(steps: Sequence[TimelineEvent], at: datetime) -> str | None:
    answers = [step for step in steps if step.what == TimelineEventType.VERIFICATION_ANSWERED]
    if not answers:
        heard = [step for step in steps if step.what == TimelineEventType.WEBHOOK_RECEIVED]
        if not heard:
            return "Stripe has not been asked yet, and has sent nothing."
        return f"Stripe sent {heard[-1].detail.get('type')} {span(at - heard[-1].at)} ago; it was not asked."
    last = answers[-1]
    payments = ", ".join(map(str, last.detail.get("payments") or [])) or "none"
    return (
        f"Stripe said {span(at - last.at)} ago: the invoice is {last.detail.get('invoice_status')}, "
        f"payment {payments}."
    )


def event_waits(event: StoredEvent, at: datetime) -> str:
    """Why this stored event had no effect, and when it is tried again."""
    if event.handled_at is not None:
        age = span(at - event.received_at)
        return f"{event.type} {event.id} was stored {age} ago, with the outcome {event.outcome}."
    why = event.error or "it was not handled yet"
    if event.unplaced:
        why += f" ({event.unplaced})"
    if event.next_attempt_at is None:
        return f"{event.type} {event.id} was given up after {event.attempts} tries: {why}."
    left = event.next_attempt_at - at
    again = f"in {span(left)}" if left > timedelta() else "now"
    return f"{event.type} {event.id} is tried again {again} ({event.attempts} tries so far): {why}."


def recommendation(
    facts: InvoiceDetails | None,
    grants: Sequence[Grant],
    steps: Sequence[TimelineEvent],
    events: Sequence[StoredEvent],
    at: datetime,
) -> str:
    """What a person should do about this invoice: one sentence."""
    if facts is None:
        stuck = next((event for event in events if event.handled_at is None), None)
        return event_recommendation(stuck) if stuck else "Nothing: Paidup follows no such invoice."
    if facts.status is InvoiceStatus.ACTIVE:
        return _to_do_active(facts, grants)
    if not facts.status.terminal:
        stuck = next((event for event in events if event.handled_at is None and event.error), None)
        if stuck:
            return event_recommendation(stuck)
        if facts.next_check_at and at - facts.next_check_at > OVERDUE:
            return "Start the reconciler (`paidup work`): its check of this invoice is overdue."
    if facts.status is InvoiceStatus.OPEN and _money_is_there(steps):
        return "Nothing: Stripe has the money and has not marked the invoice yet; it is credited once it has."
    return _TO_DO[facts.status]


def _to_do_active(facts: InvoiceDetails, grants: Sequence[Grant]) -> str:
    if not grants:
        return "The invoice is active and has no grant: run `paidup audit`, and look into the ledger."
    given = sum(grant.credits for grant in grants)
    left = sum(grant.remaining for grant in grants)
    told = "" if facts.published_version >= facts.version else "; its screens learn it within seconds"
    return f"Nothing: {given} credits were granted, {left} of them are left{told}."


def _money_is_there(steps: Sequence[TimelineEvent]) -> bool:
    answers = [step for step in steps if step.what == TimelineEventType.VERIFICATION_ANSWERED]
    return bool(answers) and "succeeded" in (answers[-1].detail.get("payments") or [])


_TO_DO = {
    InvoiceStatus.OPEN: "Nothing yet: no payment has arrived, since the customer has not confirmed one.",
    InvoiceStatus.REQUIRES_ACTION: "The customer must finish his bank's check (3DS) on the payment screen.",
    InvoiceStatus.PROCESSING: "Wait: the bank has the payment and may take days; then it is credited.",
    InvoiceStatus.FAILED: "The customer should try another card: the same invoice may still be paid.",
    InvoiceStatus.VOID: "The invoice is void and nothing was paid: the customer chooses a plan again.",
    InvoiceStatus.REVERSED: "The payment was taken back, and its credits with it: talk to the customer.",
}


def event_recommendation(event: StoredEvent) -> str:
    """What a person should do about an event that had no effect: one sentence."""
    if event.handled_at is not None:
        return "Nothing: no event of this type changes a payment."
    again = f"then run `paidup replay {event.id}`."
    error = event.error or ""
    if "unknown_price" in error:
        return f"Name the lookup key of {event.unplaced or 'its price'} in the plans file, restart, {again}"
    if "unknown_customer" in error:
        who = event.unplaced or "this customer"
        return f"Tie {who} to an account (a token with `stripe_customer`, or POST /api/invoices), {again}"
    if event.given_up:
        return f"Mend what its error says, {again}"
    return "Wait for the next try, or mend what its error says."


def span(length: timedelta) -> str:
    """A length of time as people say it: 480 ms, 12 s, 5 min, 3 h, 2 d."""
    seconds = abs(length.total_seconds())
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def money(amount_minor: int, currency: str) -> str:
    """An amount with its currency, in the currency's smallest unit, as Stripe has it."""
    return f"{amount_minor} {currency} (smallest unit)"


def format_detail(detail: dict[str, Any]) -> str:
    """A step's detail in one line."""
    return ", ".join(f"{name}={_plain(value)}" for name, value in detail.items() if value is not None)


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def headline(story: InvoiceReport) -> list[tuple[str, str]]:
    """The first things to know of an invoice, as names and values."""
    facts = story.facts
    if facts is None:
        return [("status", "not known here")]
    lines = [
        ("status", f"{facts.status} (stage {facts.stage})"),
        ("account", f"{facts.account} ({facts.customer})"),
        ("plan", f"{facts.plan}, {facts.credits} credits, {facts.billing_reason}"),
        ("amount", money(facts.amount_due_minor, facts.currency)),
        ("payment", f"{facts.payment_intent or 'none'}, subscription {facts.subscription or 'none'}"),
        ("created", moment(facts.created_at)),
    ]
    if facts.settled_at:
        took = span(facts.settled_at - facts.created_at)
        lines.append(("settled", f"via {facts.settled_via} at {moment(facts.settled_at)}, after {took}"))
    frozen = sum(grant.frozen for grant in story.grants)
    if facts.credits_reversed or frozen:
        back = f"{facts.credits_reversed} credits were taken back, {frozen} are withheld by a dispute"
        lines.append(("money back", back))
    if facts.error:
        lines.append(("error", format_detail(facts.error)))
    lines.append(("told", f"version {facts.published_version} of {facts.version}"))
    return lines


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d} {time_of_day(at)} UTC"


def time_of_day(at: datetime) -> str:
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
