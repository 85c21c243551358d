"""Which changes of a subscription Stripe does not make, as errors that say why and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from paidup.errors import ChangeRefused, NotSubscribed, StripeRefused
from paidup.stripe_api.schemas import StripeSubscription

log = structlog.get_logger(__name__)


def refuse_unchangeable(running: StripeSubscription) -> None:
    """Raises ChangeRefused where Stripe would not bill a change now and apply it once it is paid.

    https://docs.stripe.com/billing/subscriptions/pending-updates: they need `charge_automatically`.
    While collection is paused, the change's invoice would stay a draft or be voided; a paused
    subscription makes no invoices.
    """
    if running.collection_method != "charge_automatically":
        raise ChangeRefused(
            "send_invoice", "This subscription is paid by invoices that are sent by email: ask support."
        )
    if running.pause_collection is not None:
        raise ChangeRefused(
            "collection_paused", "This subscription's payments are paused. Resume them first."
        )
    if running.status == "paused":
        raise ChangeRefused("paused", "This subscription is paused. Resume it first.")


@contextmanager
def refusals(running: StripeSubscription) -> Iterator[None]:
    """Turns Stripe's refusal to change this subscription into NotSubscribed or ChangeRefused.

    What concerns no subscription, such as a key without the permission, stays StripeRefused.
    """
    try:
        yield
    except StripeRefused as error:
        if error.is_missing and error.http_status == 404:
            raise NotSubscribed from error  # it has ended at this moment
        if error.http_status not in (400, 402):
            raise
        log.warning("subscription_change_refused", subscription=running.id, error=str(error))
        if running.schedule is not None:
            raise ChangeRefused(
                "scheduled", "A schedule manages this subscription: it is changed there."
            ) from error
        raise ChangeRefused("refused", "Stripe does not make this change of the subscription.") from error
