"""Read-only queries that turn Checkout Sessions into the messages that browsers receive.

They show nothing of the account: no name, no balance, no id of an invoice. Like those of invoices
(`status_queries.py`), they bypass the models.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec.structs import replace

from paidup.db.bulk import select_by_keys
from paidup.domain.checkout_stages import INVOICE_VERSION_OFFSET, LinkedInvoice, SessionFacts, checkout_state
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.delayed_methods import ProcessingPayment, Voucher, processing_payment
from paidup.domain.messages import CheckoutMessage
from paidup.domain.payment_facts import PaymentError, Source
from paidup.domain.stages import Stage
from paidup.realtime.status_queries import units_granted
from paidup.runtime.clock import now

_CHECKOUTS = """
SELECT c.id, c.status, c.payment_status, c.account_id, c.completed_at, c.created_at, c.return_to,
       COALESCE(i.plan, c.plan), i.version, i.status, i.credits_quoted, i.credits_reversed, i.settled_at,
       i.settled_via, i.changed_at, i.payment_seen_at, i.error, i.payment_method,
       i.processing_since, i.credits_on_trust, i.voucher, i.provisioning_until, i.unit_credits
FROM checkout_sessions c LEFT JOIN invoices i ON i.id = c.invoice WHERE c.id"""

# At least the version that `checkout_state` computes.
CHECKOUT_VERSIONS = f"""
SELECT c.id, COALESCE(i.version + {INVOICE_VERSION_OFFSET}, CASE c.status WHEN 'open' THEN 0 ELSE 2 END)
       AS version
FROM checkout_sessions c LEFT JOIN invoices i ON i.id = c.invoice"""  # noqa: S608 - of a constant

_RETURN_ADDRESSES = "SELECT c.return_to FROM checkout_sessions c WHERE c.id"


class _CheckoutRow(msgspec.Struct, array_like=True):
    """The columns of `_CHECKOUTS`, in their order. From `version` on: its invoice's, if any."""

    id: str
    session_status: str
    payment_status: str
    account_id: int | None
    completed_at: datetime | None
    created_at: datetime
    return_to: str | None
    plan: str | None
    version: int | None
    status: InvoiceStatus | None
    credits_quoted: int | None
    credits_reversed: int | None
    settled_at: datetime | None
    settled_via: Source | None
    changed_at: datetime | None
    payment_seen_at: datetime | None
    error: str | None
    payment_method: str | None
    processing_since: datetime | None
    credits_on_trust: int | None
    voucher: str | None
    provisioning_until: datetime | None
    unit_credits: str | None


async def read_checkout(checkout: str) -> CheckoutMessage | None:
    """The message for one session, or None if there is no such row."""
    found = await read_checkouts([checkout])
    return found[0] if found else None


async def read_return_address(checkout: str) -> str | None:
    """Where the session's customer goes on, if it names a place: not for browsers before it is active."""
    async for (address,) in select_by_keys(_RETURN_ADDRESSES, [checkout]):
        return None if address is None else str(address)
    return None


async def read_checkouts(checkouts: Iterable[str]) -> list[CheckoutMessage]:
    """The messages for several sessions: one query per 500."""
    return [
        _to_message(msgspec.convert(record, _CheckoutRow, strict=False))
        async for record in select_by_keys(_CHECKOUTS, checkouts)
    ]


def _to_message(row: _CheckoutRow) -> CheckoutMessage:
    invoice = None
    if row.status is not None and row.version is not None:
        invoice = LinkedInvoice(row.status, row.version, row.payment_seen_at, row.provisioning_until)
    facts = SessionFacts(
        row.session_status, row.payment_status, row.account_id is not None, row.completed_at, invoice
    )
    state = checkout_state(facts, now())
    told = row.settled_at is not None and state.stage is not Stage.PROVISIONING
    credits = max(0, (row.credits_quoted or 0) - (row.credits_reversed or 0)) if told else 0
    return CheckoutMessage(
        checkout=row.id,
        version=state.version,
        status=state.status,
        stage=state.stage,
        plan=row.plan,
        credits_granted=credits,
        via=row.settled_via if told else None,
        at=row.changed_at or row.completed_at or row.created_at,
        error=msgspec.json.decode(row.error, type=PaymentError) if row.error else None,
        processing=_processing(row),
        return_to=row.return_to if state.status is InvoiceStatus.ACTIVE else None,
        units_granted=units_granted(row.unit_credits) if told else msgspec.UNSET,
    )


def _processing(row: _CheckoutRow) -> ProcessingPayment | None:
    if row.status is not InvoiceStatus.PROCESSING:
        return None
    voucher = msgspec.json.decode(row.voucher, type=Voucher) if row.voucher else None
    if voucher is not None:
        voucher = replace(voucher, url=None)  # its page shows the customer's name
    on_trust = row.credits_on_trust or 0
    return processing_payment(row.payment_method, row.processing_since, on_trust, now(), voucher)
