"""Stripe's side of a test: the sandbox's controls, and what a customer's browser does there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import aiohttp
from stripe import WebhookSignature

from paidup.domain.catalog import Catalogue
from paidup.domain.plans_toml import parse_catalogue
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.client import API_VERSION

PUBLISHABLE = {"Authorization": "Bearer pk_test_tests"}
CATALOGUE = parse_catalogue(PACKAGED_PLANS.read_bytes())
LOOKUP_KEYS = len(CATALOGUE.lookup_keys)
SECRET = {"Authorization": "Bearer sk_test_tests"}


class StripeSide:
    """A client of one running sandbox."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._http = http

    async def control(self, path: str, body: Any = None) -> Any:
        """POST /sandbox/<path>."""
        async with self._http.post(f"{self.url}/sandbox/{path}", json=body or {}) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def look(self, path: str) -> Any:
        """GET /sandbox/<path>."""
        async with self._http.get(f"{self.url}/sandbox/{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def conditions(self, **changes: Any) -> None:
        await self.control("conditions", changes)

    async def calls(self, endpoint: str | None = None) -> int:
        """How often the server called Stripe: all calls, or those of e.g. "GET /v1/invoices/{id}"."""
        counted = (await self.look("calls"))["secret"]
        return int(counted.get(endpoint, 0) if endpoint else sum(counted.values()))

    async def api(self, method: str, path: str, **form: Any) -> Any:
        """One call of Stripe's API with a secret key, as the SaaS's own code would make it."""
        async with self._http.request(method, f"{self.url}/v1/{path}", data=form, headers=SECRET) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer

    async def begin(self) -> None:
        """Delete everything, and create the catalogue's prices, in the tests' own sandbox."""
        await self.control("begin", {"prices": [urlencode(form) for form in PRICE_FORMS]})

    async def create_prices(self, catalogue: Catalogue | None = None) -> None:
        """The prices of the catalogue, as `paidup stripe-setup` makes them."""
        for form in PRICE_FORMS if catalogue is None else price_forms(catalogue):
            await self.api("POST", "prices", **form)

    async def create_endpoint(self, url: str, types: Sequence[str]) -> str:
        """A webhook endpoint for these types of events; its signing secret."""
        form = {f"enabled_events[{number}]": kind for number, kind in enumerate(types)}
        return str((await self.api("POST", "webhook_endpoints", url=url, **form))["secret"])

    async def paid_invoices(self) -> list[Any]:
        """Every paid invoice, newest first."""
        found: list[Any] = []
        more, after = True, ""
        while more:
            page = await self.api("GET", f"invoices?status=paid&limit=100{after}")
            found += page["data"]
            more, after = page["has_more"], f"&starting_after={found[-1]['id']}" if found else ""
        return found

    async def confirm(self, client_secret: str, payment_method: str = "pm_card_visa") -> Any:
        """What `stripe.confirmCardPayment` sends: the intent, or {"error": ...}."""
        return await self._confirm(client_secret, {"payment_method": payment_method})

    async def confirm_with(self, client_secret: str, data: Mapping[str, Any]) -> Any:
        """What `stripe.confirmPayment` sends: `payment_method_data`, as typed into the Payment Element."""
        return await self._confirm(client_secret, bracketed(data, "payment_method_data"))

    async def _confirm(self, client_secret: str, method: Mapping[str, str]) -> Any:
        intent = client_secret.partition("_secret_")[0]
        form = {"client_secret": client_secret, **method}
        async with self._http.post(
            f"{self.url}/v1/payment_intents/{intent}/confirm", data=form, headers=PUBLISHABLE
        ) as response:
            return await response.json()

    async def authenticate(self, client_secret: str, outcome: str = "pass") -> Any:
        """Answer the bank's 3DS challenge: "pass" or "fail"."""
        intent = client_secret.partition("_secret_")[0]
        return await self.control(f"payment_intents/{intent}/authenticate", {"outcome": outcome})

    async def event(self, kind: str, about: str | None = None) -> Any:
        """The newest event of this type (about this object), as Stripe would send it; else None."""
        events = (await self.api("GET", f"events?type={kind}&limit=100"))["data"]
        return next((event for event in events if about in (None, event["data"]["object"]["id"])), None)

    async def customer(self, **form: Any) -> str:
        """A customer created by the SaaS itself; returns its id."""
        return str((await self.api("POST", "customers", **form))["id"])

    async def subscribe(
        self, customer: str, plan: str = "pro", account: str | None = None, **form: Any
    ) -> Any:
        """A subscription created directly in Stripe, invoice expanded; `account` as Paidup would set it."""
        lookup = f"prices?lookup_keys[0]=paidup_{plan}_monthly"
        price = (await self.api("GET", lookup))["data"][0]["id"]
        defaults = {
            "customer": customer,
            "items[0][price]": price,
            "payment_behavior": "default_incomplete",
            "expand[0]": "latest_invoice.confirmation_secret",
        }
        if account is not None:
            defaults["metadata[paidup_account]"] = account
        return await self.api("POST", "subscriptions", **{**defaults, **form})


def price_forms(catalogue: Catalogue) -> list[dict[str, Any]]:
    """What creates each price of the catalogue, with a product of its own."""
    return [
        {
            "currency": price.currency,
            "unit_amount": price.amount_minor,
            "lookup_key": price.lookup_key,
            "product_data[name]": plan.name,
            **({} if plan.top_up else {"recurring[interval]": price.interval}),
        }
        for plan in catalogue.plans
        for price in plan.prices
    ]


PRICE_FORMS = price_forms(CATALOGUE)


def bracketed(value: Any, prefix: str) -> dict[str, str]:
    """Nested values as Stripe's form fields: `prefix[name][name]`."""
    if not isinstance(value, Mapping):
        return {prefix: str(value)}
    return {name: text for key in value for name, text in bracketed(value[key], f"{prefix}[{key}]").items()}


def forged_event(kind: str, obj: dict[str, Any], **envelope: Any) -> bytes:
    """An event's bytes, made by hand for what the sandbox never does."""
    event = {
        "id": f"evt_{time.time_ns()}",
        "object": "event",
        "type": kind,
        "api_version": API_VERSION,
        "created": int(time.time()),
        "livemode": False,
        "pending_webhooks": 1,
        "request": None,
        "data": {"object": obj},
    }
    return json.dumps({**event, **envelope}).encode()


def sign(body: bytes, secret: str) -> str:
    """The `Stripe-Signature` header that Stripe would send with `body` now."""
    return str(WebhookSignature.generate_signature_header(body.decode(), secret))
