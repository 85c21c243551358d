"""Reads which saved card Stripe would charge for a subscription: brand and last four digits, to be shown."""

from __future__ import annotations

from typing import Any

import msgspec

from paidup.errors import StripeRefused
from paidup.stripe_api.client import RateLimitedClient, body_of, understood

NOT_PERMITTED = 403


class ChargedCard(msgspec.Struct, frozen=True):
    """`brand` is Stripe's name of the network, such as `visa`."""

    brand: str
    last4: str


class SavedMethod(msgspec.Struct, frozen=True):
    """A PaymentMethod; `card` is None for one of another type."""

    card: ChargedCard | None = None


class InvoiceDefaults(msgspec.Struct, frozen=True):
    default_payment_method: SavedMethod | None = None


class MethodsOfCustomer(msgspec.Struct, frozen=True):
    invoice_settings: InvoiceDefaults | None = None


class MethodsOfSubscription(msgspec.Struct, frozen=True):
    """A subscription's own payment method, and its customer's: the former is charged where both are set.

    https://docs.stripe.com/api/subscriptions/object#subscription_object-default_payment_method
    """

    customer: MethodsOfCustomer
    default_payment_method: SavedMethod | None = None

    @property
    def charged(self) -> SavedMethod | None:
        defaults = self.customer.invoice_settings or InvoiceDefaults()
        return self.default_payment_method or defaults.default_payment_method


_METHODS = msgspec.json.Decoder(MethodsOfSubscription)
_EXPANDED = ["default_payment_method", "customer.invoice_settings.default_payment_method"]


async def charged_card(client: RateLimitedClient, subscription: str) -> ChargedCard | None:
    """None where nothing or no card is saved, or where the key may not read payment methods.

    Raises StripeUnavailable, or StripeRefused for any other reason.
    """
    params: Any = {"expand": _EXPANDED}
    retrieve = client.v1.subscriptions.retrieve_async
    try:
        read = await client.call("subscriptions.retrieve", retrieve, subscription, params)
    except StripeRefused as error:
        if error.http_status == NOT_PERMITTED:
            return None
        raise
    method = understood(_METHODS.decode, body_of(read)).charged
    return method.card if method else None
