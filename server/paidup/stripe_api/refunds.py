"""Refunds a payment in full: https://docs.stripe.com/api/refunds/create"""

from __future__ import annotations

from typing import Any

from paidup.errors import StripeRefused
from paidup.stripe_api.client import RateLimitedClient, body_of, decode_answer
from paidup.stripe_api.reversal_schemas import Refund

ALREADY_REFUNDED = "charge_already_refunded"


class Refunds:
    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client

    async def create(self, intent: str, key: str) -> Refund | None:
        """Refund what is left of a payment, once for each `key`. None where nothing is left."""
        params: Any = {"payment_intent": intent, "reason": "duplicate"}
        create = self._client.v1.refunds.create_async
        try:
            made = await self._client.call("refunds.create", create, params, {"idempotency_key": key})
        except StripeRefused as error:
            if error.code == ALREADY_REFUNDED:
                return None
            raise
        return decode_answer(Refund, body_of(made))
