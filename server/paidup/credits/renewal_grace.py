"""Keeps until when unused credits can be used while their subscription's renewal is under way.

Computed from all that is known of the subscription, each time that some of it changes, so the order in which
events arrive does not matter. `domain/renewals.py` decides. Runs inside the caller's transaction, on a locked
account.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from paidup.credits import ledger
from paidup.db.models import Account, CreditGrant, GrantState, Invoice, Subscription
from paidup.db.unit_accounts import in_all_units, in_unit
from paidup.db.unit_of_work import read_many
from paidup.domain.catalog import Catalogue
from paidup.domain.decisions import UNCOLLECTIBLE, InvoiceStatus
from paidup.domain.quotes import Quote
from paidup.domain.renewals import RenewalFacts, usable_until
from paidup.runtime.clock import at_unix

RENEWAL = "subscription_cycle"
"""The billing reason of a renewal."""
_MONTH = RenewalFacts("active")
NEWEST_INVOICES = 24
"""How many of a subscription's invoices are read: two years of renewals."""

_NEWEST_INVOICES = f"subscription = $1 ORDER BY finalized_at DESC LIMIT {NEWEST_INVOICES}"


async def update(
    account: Account, subscription: str, catalogue: Catalogue, at: datetime, ended: bool = False
) -> None:
    """Set until when the subscription's credits can be used, and expire those that can no longer be.

    `ended`: the subscription is known to have ended, whatever its row says.
    """
    own = CreditGrant.filter(account_id=account.id, invoice__subscription=subscription)
    grants = await own.filter(expires_at__not_isnull=True, state__in=[GrantState.LIVE, GrantState.PLANNED])
    live = [grant for grant in grants if grant.state is GrantState.LIVE]
    if not live:
        return
    known = RenewalFacts("canceled") if ended else await read_facts(subscription)
    awaited = (grant for grant in grants if grant.state is GrantState.PLANNED)
    planned = {(grant.invoice_id, grant.unit, grant.due_at) for grant in awaited}
    for grant in live:
        assert grant.expires_at is not None
        # A month of a year awaits the next month's credits, not a renewal.
        month = (grant.invoice_id, grant.unit, grant.expires_at) in planned
        until = usable_until(grant.expires_at, catalogue.find(grant.plan), _MONTH if month else known)
        if until != grant.usable_until:
            grant.usable_until = until
            await grant.save(update_fields=["usable_until"])
    for each in in_all_units(account):
        await ledger.expire_due(each, at)


async def end_former_installments(account: Account, made: CreditGrant, at: datetime) -> None:
    """The next month's credits of a year have come: those of the months before can no longer be used."""
    own = CreditGrant.filter(invoice_id=made.invoice_id, unit=made.unit)
    former = own.filter(expires_at__lte=made.due_at, usable_until__not_isnull=True)
    await former.update(usable_until=None)
    await ledger.expire_due(in_unit(account, made.unit), at)


async def awaits_renewal(account: Account) -> bool:
    """Whether the account has grants whose grace a renewal would end. Reads without a lock.

    Credits that come at the same moment change the account's row: a batch then leaves the renewal out.
    Used-up ones as well: a reservation or a failed refund may return credits to them.
    """
    live = CreditGrant.filter(account_id=account.id, state=GrantState.LIVE)
    return await live.filter(usable_until__gt=at_unix(0)).exists()  # as an index finds it on SQLite, too


async def read_facts(subscription: str) -> RenewalFacts:
    """What is known of a subscription's renewals."""
    found = await read_many(Subscription, "id = $1", subscription)
    return await facts_of(subscription, found[0] if found else None)


async def facts_of(subscription: str, row: Subscription | None) -> RenewalFacts:
    """The same where the subscription's row was read."""
    rows = await read_many(Invoice, _NEWEST_INVOICES, subscription)
    return RenewalFacts(
        status=row.status if row else "active",
        cancel_at=row.cancel_at if row else None,
        paid_until=_latest_end(each for each in rows if each.settled_at is not None),
        failed_until=_latest_end(
            each for each in rows if each.billing_reason == RENEWAL and has_failed(each)
        ),
        processing=any(
            each.billing_reason == RENEWAL and each.status is InvoiceStatus.PROCESSING and not each.voucher
            for each in rows
        ),
    )


def has_failed(row: Invoice) -> bool:
    """Whether Stripe will not collect this invoice: it is void, or written off."""
    written_off = row.status is InvoiceStatus.FAILED and (row.error or {}).get("code") == UNCOLLECTIBLE.code
    return row.status is InvoiceStatus.VOID or written_off


def _latest_end(rows: Iterable[Invoice]) -> datetime | None:
    """The end of the latest period that one of these invoices bills."""
    quotes = [msgspec.convert(row.quote, Quote) for row in rows if row.quote is not None]
    ends = [part.period_end for quoted in quotes for part in quoted.all_parts]
    return at_unix(max(ends)) if ends else None
