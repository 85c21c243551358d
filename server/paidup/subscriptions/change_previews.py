"""What a plan change would cost now, as Stripe computes it. Changes nothing.

The question has the parameters of the change itself, so that both give the same amounts while the
second does not move: https://docs.stripe.com/api/invoices/create_preview.
"""

from __future__ import annotations

import msgspec

from paidup.db.models import Account
from paidup.domain.catalog import BillingCycle, Interval
from paidup.stripe_api.charged_cards import ChargedCard
from paidup.stripe_api.gateway import StripeGateway
from paidup.subscriptions.change_refusals import refusals
from paidup.subscriptions.plan_changes import PlanChanges


class CostLine(msgspec.Struct, frozen=True):
    """A line of the invoice, as Stripe describes it. Below zero, it reduces the amount."""

    description: str
    amount_minor: int


class ChangeCost(msgspec.Struct, frozen=True):
    """`amount_due_minor` would be charged. A `total_minor` below zero is kept for later invoices.

    `card` is None where nothing is charged, or no card that may be shown.
    """

    plan: str
    interval: Interval
    quantity: int
    currency: str
    amount_due_minor: int
    total_minor: int
    lines: list[CostLine]
    card: ChargedCard | None


async def preview_change(
    changes: PlanChanges,
    gateway: StripeGateway,
    account: Account,
    plan_id: str,
    interval: Interval | None = None,
    quantity: int | None = None,
    subscription: str | None = None,
) -> ChangeCost:
    """What `PlanChanges.change` would bill now. Raises what that raises."""
    wanted = await changes.wanted(account, plan_id, interval, quantity, subscription)
    if not wanted.pending:
        wanted.refuse_unchanged()
    restart = wanted.plan.change is BillingCycle.RESTART_CYCLE
    with refusals(wanted.running):
        cost = await gateway.preview_change(
            wanted.running.id, wanted.item.id, wanted.price, wanted.quantity, restart
        )
    card = await gateway.charged_card(wanted.running.id) if cost.amount_due > 0 else None
    lines = [CostLine(line.description or wanted.plan.name, line.amount) for line in cost.lines.data]
    return ChangeCost(
        *(wanted.plan.id, wanted.listed.interval, wanted.quantity, cost.currency),
        *(cost.amount_due, cost.total, lines, card),
    )
