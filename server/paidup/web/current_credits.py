"""What GET /api/credits tells of a customer: by one statement, and by others only where there is more."""

from __future__ import annotations

from typing import NamedTuple

from paidup.credits.shown_grants import lacks_plan, may_be_over
from paidup.db.models import Account, CreditGrant
from paidup.services import Services
from paidup.subscriptions.renewals import Renewal
from paidup.web.auth import Customer
from paidup.web.dependencies import PendingActivation, current_grants, pending_activation, renewing


class CurrentCredits(NamedTuple):
    account: Account
    grants: list[CreditGrant]
    """The live ones with credits, of all units, in spending order; of very many the first."""
    activating: PendingActivation | None
    renewing: Renewal | None


async def current_credits(services: Services, customer: Customer) -> CurrentCredits:
    """The account is made on first use. Expired grants are ended first. Raises what `accounts.get` raises."""
    read, at = await services.accounts.read_credits(customer.external_id), services.clock()
    if read and not services.accounts.is_current(read.account, customer.stripe_customer):
        read = None
    if read:
        account, grants = read.account, read.grants
    else:
        account, grants = await services.accounts.get(customer.external_id, customer.stripe_customer), []
    if read is None or may_be_over(grants, at) or any(map(lacks_plan, grants)):
        account, grants = await current_grants(services, account)
    return CurrentCredits(
        account=account,
        grants=grants,
        activating=await pending_activation(services, account) if read is None or read.has_unpaid else None,
        renewing=await renewing(services, account) if read is None or read.may_renew(at) else None,
    )
