"""What `paidup explain` and the operators' page say of a Checkout Session."""

from __future__ import annotations

from tortoise.expressions import Q

from paidup.db.models import CheckoutSession
from paidup.operations.formatting import format_amount, format_datetime
from paidup.operations.invoice_report import SessionDetails

MAX_SESSIONS = 20


async def sessions_of(reference: str, account_id: int | None = None) -> list[SessionDetails]:
    """The newest sessions of this id, PaymentIntent, subscription or account."""
    matching = Q(id=reference) | Q(payment_intent=reference) | Q(subscription=reference)
    if account_id is not None:
        matching |= Q(account_id=account_id)
    rows = CheckoutSession.filter(matching).order_by("-created_at").limit(MAX_SESSIONS)
    return [session_details(row) for row in await rows.select_related("account")]


def session_details(row: CheckoutSession) -> SessionDetails:
    """`row` has its account."""
    return SessionDetails(
        checkout=row.id,
        status=row.status,
        payment_status=row.payment_status,
        account=row.account.external_id if row.account else None,
        purchase=row.purchase,
        plan=row.plan,
        amount_minor=row.amount_minor,
        currency=row.currency,
        invoice=row.invoice,
        subscription=row.subscription,
        customer=row.customer,
        client_reference=row.client_reference,
        superseded_by=row.superseded_by,
        duplicate_of=row.duplicate_of,
        resolution=row.resolution,
        created_at=row.created_at,
        completed_at=row.completed_at,
        expires_at=row.expires_at,
        next_check_at=row.next_check_at,
    )


def session_summary(details: SessionDetails) -> list[tuple[str, str]]:
    """Its key facts, and what to do, as names and values."""
    lines = [
        ("status", f"{details.status}, {details.payment_status}"),
        ("account", details.account or "none yet"),
        ("plan", f"{details.plan or 'unknown'}, {details.purchase or 'made elsewhere'}"),
        ("invoice", details.invoice or "none"),
        ("created", format_datetime(details.created_at)),
    ]
    if details.amount_minor is not None and details.currency:
        lines.append(("amount", format_amount(details.amount_minor, details.currency)))
    if details.account is None and details.client_reference:
        lines.append(("names", f"{details.client_reference}, who has no account"))
    if details.superseded_by:
        lines.append(("superseded", f"by {details.superseded_by}"))
    if details.duplicate_of:
        done = details.resolution or f"`paidup resolve {details.checkout}` refunds it, or leaves its credits"
        lines.append(("paid twice", f"beside {details.duplicate_of}: {done}"))
    lines.append(("to do", _advice(details)))
    return lines


def _advice(details: SessionDetails) -> str:
    if details.status == "open":
        return f"Nothing: the customer has not paid. It expires at {format_datetime(details.expires_at)}."
    if details.status == "expired":
        return "Nothing: it was not paid, and cannot be any more."
    if details.invoice is not None:
        return "See its invoice."
    if details.payment_status == "unpaid":
        return "Nothing: a payment that takes days is under way."
    if details.account is None:
        return (
            "It is paid, and belongs to nobody yet: send its customer what"
            f" `paidup claim-link {details.checkout}` prints, or `paidup resolve` it."
        )
    return "It is read again by the reconciler; `paidup work` has to run."
