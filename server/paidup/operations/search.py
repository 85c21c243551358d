"""Finds what an operator names: an account, an invoice, a payment, an event, a delivery or a correction."""

from __future__ import annotations

import sys
from enum import StrEnum

import msgspec
from tortoise.expressions import Q

from paidup.db.accounts import surviving
from paidup.db.connection import is_sqlite, storage_errors
from paidup.db.customers import account_id_of
from paidup.db.models import Account, CheckoutSession, Correction, Invoice, StripeEvent, Subscription
from paidup.db.outbound_models import EventDelivery
from paidup.db.unit_of_work import read_many
from paidup.errors import NotFound
from paidup.operations.audit_log import MAX_ID, MAX_KEY, MAX_NAME
from paidup.operations.explain import explain, stored_event
from paidup.operations.invoice_report import StoredEvent

MOST = 20
SHORTEST_START = 3
"""Of an account's id, to list those that begin with it."""
STRIPE_IDS = ("in_", "cs_", "pi_", "sub_", "cus_")


class Kind(StrEnum):
    ACCOUNT = "account"
    INVOICE = "invoice"
    EVENT = "event"
    DELIVERY = "delivery"
    CORRECTION = "correction"


class Found(msgspec.Struct, frozen=True):
    """`id` is what its page is named by, `about` says how it matches."""

    kind: Kind
    id: str
    about: str


class EventReport(msgspec.Struct, frozen=True):
    """A stored event with its payload, which is emptied after a while."""

    event: StoredEvent
    payload: str
    dismissed_by: str | None
    dismissed_because: str | None


async def find_matches(reference: str) -> list[Found]:
    """All that has this id. Of none, the accounts whose id begins with it. Raises StorageUnavailable."""
    with storage_errors():
        found = [
            *await _accounts(reference),
            *await _invoices(reference),
            *await _events(reference),
            *await _corrections(reference),
        ]
        if not found and SHORTEST_START <= len(reference) <= MAX_NAME:
            rows = await read_many(Account, _begins_with(), reference)
            found = [Found(Kind.ACCOUNT, row.external_id, "its id begins with this") for row in rows]
    if not found and reference.startswith(STRIPE_IDS) and (await explain(reference)).found:
        found = [Found(Kind.INVOICE, reference, "only events of it are known")]
    return list({(each.kind, each.id): each for each in found}.values())


def _begins_with() -> str:
    """The accounts whose id begins with $1, by an index. PostgreSQL's compares bytes by these operators."""
    at_least, below, last, order = (
        (">=", "<", "char", "") if is_sqlite() else ("~>=~", "~<~", "chr", " USING ~<~")
    )
    end = f"($1 || {last}({sys.maxunicode}))"
    return f"external_id {at_least} $1 AND external_id {below} {end} ORDER BY external_id{order} LIMIT {MOST}"


async def _accounts(reference: str) -> list[Found]:
    named = await Account.get_or_none(external_id=reference) if len(reference) <= MAX_NAME else None
    if named is not None:
        account = await surviving(named)
        about = "its id" if account.id == named.id else f"{reference} was merged into it"
        return [Found(Kind.ACCOUNT, account.external_id, about)]
    owners = {await account_id_of(reference): "its customer at Stripe"}
    if subscription := await Subscription.get_or_none(id=reference):
        owners[subscription.account_id] = "its subscription"
    rows = await Account.filter(id__in=[id for id in owners if id is not None])
    return [Found(Kind.ACCOUNT, row.external_id, owners[row.id]) for row in rows]


async def _invoices(reference: str) -> list[Found]:
    matching = Q(id=reference) | Q(payment_intent=reference) | Q(subscription=reference)
    invoices = await Invoice.filter(matching).order_by("-created_at").limit(MOST)
    known = {row.checkout for row in invoices}
    sessions = await CheckoutSession.filter(matching).order_by("-created_at").limit(MOST)
    found = [Found(Kind.INVOICE, row.id, _how(row.id, row.payment_intent, reference)) for row in invoices]
    return found + [
        Found(Kind.INVOICE, row.id, _how(row.id, row.payment_intent, reference))
        for row in sessions
        if row.id not in known and row.invoice not in {each.id for each in invoices}
    ]


def _how(id: str, payment_intent: str | None, reference: str) -> str:
    if id == reference:
        return "its id"
    return "its payment" if payment_intent == reference else "its subscription"


async def _events(reference: str) -> list[Found]:
    """One of Stripe's, or the deliveries of one of ours."""
    if reference.startswith("msg_") and len(reference) <= MAX_ID:
        rows = await EventDelivery.filter(event__message=reference).limit(MOST).select_related("endpoint")
        return [Found(Kind.DELIVERY, str(row.id), f"to {row.endpoint.name}") for row in rows]
    exists = await StripeEvent.exists(id=reference)
    return [Found(Kind.EVENT, reference, "its id")] if exists else []


async def _corrections(reference: str) -> list[Found]:
    if len(reference) > MAX_KEY:
        return []
    named = Q(key=reference) | Q(id=reference) if len(reference) <= MAX_ID else Q(key=reference)
    row = await Correction.filter(named).first()
    return [Found(Kind.CORRECTION, row.id, "its key" if row.key == reference else "its id")] if row else []


async def read_event(event: str) -> EventReport:
    """A stored event of Stripe's. Raises NotFound, StorageUnavailable."""
    with storage_errors():
        row = await StripeEvent.get_or_none(id=event)
    if row is None:
        raise NotFound(f"No event {event} is stored.")
    return EventReport(stored_event(row), row.payload, row.dismissed_by, row.dismissed_because)
