"""Creates products and prices in Stripe, for `paidup stripe-setup`."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, NamedTuple

from paidup.domain.catalog import Interval, Plan, PlanPrice
from paidup.errors import StripeRefused
from paidup.stripe_api.client import RateLimitedClient
from paidup.stripe_api.price_shapes import PLAN_METADATA_KEY


class MadePrice(NamedTuple):
    """`replayed`: Stripe repeated its answer to an earlier call, so the price may have changed since."""

    id: str
    replayed: bool


class PriceWriter:
    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client

    async def create_product(self, plan: Plan) -> str:
        """The plan's own product; its id is made of the plan's, so there is one however often this runs."""
        product = f"paidup_{plan.id}"
        params: Any = {"id": product, "name": plan.name, "metadata": {PLAN_METADATA_KEY: plan.id}}
        try:
            await self._client.call("products.create", self._client.v1.products.create_async, params)
        except StripeRefused as error:
            if error.code != "resource_already_exists":
                raise
        return product

    async def name_plan(self, product: str, plan_id: str) -> None:
        """Write the plan's id to a product's metadata; the rest of it stays."""
        params: Any = {"metadata": {PLAN_METADATA_KEY: plan_id}}
        await self._client.call("products.update", self._client.v1.products.update_async, product, params)

    async def create_price(
        self, product: str, price: PlanPrice, holder: str | None, again: bool = False
    ) -> MadePrice:
        """A price with this lookup key, which moves to it from the price `holder`.

        `again`: whatever Stripe answered to an earlier call.
        """
        params: Any = {
            "currency": price.currency,
            "unit_amount": price.amount_minor,
            "lookup_key": price.lookup_key,
            "product": product,
        }
        if holder is not None:
            params["transfer_lookup_key"] = True
        if price.interval is not Interval.ONCE:
            params["recurring"] = {"interval": price.interval}
        wanted = f"{price.lookup_key} {price} {product} {holder}"
        name = uuid.uuid4().hex if again else hashlib.sha256(wanted.encode()).hexdigest()
        made = await self._client.call(
            "prices.create",
            self._client.v1.prices.create_async,
            params,
            {"idempotency_key": f"paidup-price-{name}"},
        )
        answered: Any = made.last_response
        headers = {header.lower(): value for header, value in answered.headers.items()}
        return MadePrice(str(made.id), headers.get("idempotent-replayed") == "true")
