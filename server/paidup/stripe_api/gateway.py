"""The only import of `stripe`: every call to Stripe's API, and the check of webhook signatures.

Keeps a warm connection, retries, applies deadlines and the rate limiter, and maps Stripe's errors to
ours. Answers are decoded from the raw body into the types of `schemas.py`, which webhooks use as well.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import stripe
from stripe import AIOHTTPClient, StripeClient, WebhookSignature

from paidup.domain.catalog import Interval, PlanPrice
from paidup.errors import StripeRefused, StripeUnavailable, WebhookRefused
from paidup.stripe_api.rate_limiter import Purpose, RateLimiter
from paidup.stripe_api.schemas import (
    ACCOUNT_METADATA_KEY,
    CreditNote,
    Dispute,
    Invoice,
    Line,
    ListOf,
    Refund,
    Subscription,
    decode,
)

API_VERSION: str = stripe.api_version
"""What the SDK pins and sends with each request; an event of another version is read again."""

NETWORK_RETRIES = 2
KEEP_ALIVE_S = 300.0
"""3DS takes minutes: keep the connection open, so that the verification needs no new TLS handshake."""
MAX_LINE_PAGES = 20
READ_INVOICE = "invoices.retrieve"
OF_ONE_OBJECT = "resource-specific"
"""The reason of a 429 that concerns one object only, and not the endpoint."""
TOKEN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,100}")
RUNNING = ("trialing", "active", "past_due", "unpaid", "paused")

T = TypeVar("T")
R = TypeVar("R", bound=Refund | Dispute | CreditNote)


class PriceInfo(msgspec.Struct, frozen=True):
    """A price as Stripe's list shows it. `interval` is None for one that no plan can have."""

    id: str
    lookup_key: str | None
    unit_amount: int | None
    currency: str
    interval: Interval | None

    def fits(self, listed: PlanPrice) -> bool:
        """Whether it matches the catalogue."""
        wanted = (listed.amount_minor, listed.currency, listed.interval)
        return (self.unit_amount, self.currency, self.interval) == wanted

    def __str__(self) -> str:
        return f"{self.unit_amount} {self.currency} {self.interval or 'at another interval'}"


class EndpointInfo(msgspec.Struct, frozen=True):
    """A webhook endpoint as Stripe has it. `api_version` is None for the account's default version.

    `secret` comes once, in the answer that made it.
    """

    id: str
    url: str
    enabled_events: list[str]
    status: str
    api_version: str | None = None
    secret: str | None = None

    @property
    def enabled(self) -> bool:
        return self.status == "enabled"

    def lacks(self, types: Sequence[str]) -> list[str]:
        """Which of these event types it is not enabled for."""
        return [] if "*" in self.enabled_events else sorted(set(types) - set(self.enabled_events))


class StripeGateway:
    """Background callers pass `max_wait_s`: their wait for a slot. Most slots are left to customers."""

    def __init__(self, client: StripeClient, rate_limiter: RateLimiter, max_wait_s: float) -> None:
        self._client = client
        self._endpoints = client.v1.webhook_endpoints
        self._reversals: dict[type, tuple[str, Any]] = {
            Refund: ("refunds", client.v1.refunds),
            Dispute: ("disputes", client.v1.disputes),
            CreditNote: ("credit_notes", client.v1.credit_notes),
        }
        self._rate_limiter = rate_limiter
        self._default_max_wait_s = max_wait_s

    async def create_customer(self, external_id: str, key: str) -> str:
        """A new customer's id; the same one for the same `key`."""
        params: Any = {"metadata": {ACCOUNT_METADATA_KEY: external_id}}
        made = await self._call(
            "customers.create", self._client.v1.customers.create_async, params, {"idempotency_key": key}
        )
        return str(made.id)

    async def create_subscription(
        self, customer: str, price: str, quantity: int, external_id: str, key: str
    ) -> Subscription:
        """A `default_incomplete` subscription, its first invoice expanded; the same for the same `key`."""
        params: Any = {
            "customer": customer,
            "items": [{"price": price, "quantity": quantity}],
            "payment_behavior": "default_incomplete",
            # Prorations before discounts, like every other line: a discount changes no credits.
            "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "itemized"}},
            "payment_settings": {
                "payment_method_types": ["card"],
                "save_default_payment_method": "on_subscription",
            },
            "metadata": {ACCOUNT_METADATA_KEY: external_id},
            "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
        }
        made = await self._call(
            "subscriptions.create",
            self._client.v1.subscriptions.create_async,
            params,
            {"idempotency_key": key},
        )
        return decode(Subscription, _body(made))

    async def change_subscription(
        self, subscription: str, item: str, price: str, quantity: int, restart_cycle: bool, key: str
    ) -> Subscription:
        """Change price or quantity, billed at once. It applies only once that is paid, within 23 hours."""
        params: Any = {
            "items": [{"id": item, "price": price, "quantity": quantity}],
            "proration_behavior": "always_invoice",
            "payment_behavior": "pending_if_incomplete",
            "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
        }
        if restart_cycle:
            params["billing_cycle_anchor"] = {"type": "now"}
        changed = await self._call(
            "subscriptions.update",
            self._client.v1.subscriptions.update_async,
            subscription,
            params,
            {"idempotency_key": key},
        )
        return decode(Subscription, _body(changed))

    async def cancel_at_period_end(self, subscription: str, cancel: bool) -> Subscription:
        """End it with its period, or undo that."""
        params: Any = {"cancel_at_period_end": cancel}
        changed = await self._call(
            "subscriptions.update", self._client.v1.subscriptions.update_async, subscription, params
        )
        return decode(Subscription, _body(changed))

    async def cancel_subscription(self, subscription: str) -> Subscription:
        """End it now. Stripe voids an open first invoice, and refunds nothing."""
        ended = await self._call(
            "subscriptions.cancel", self._client.v1.subscriptions.cancel_async, subscription
        )
        return decode(Subscription, _body(ended))

    async def read_subscription(self, subscription: str, max_wait_s: float | None = None) -> Subscription:
        """One subscription as it is now. Raises StripeRefused with `resource_missing` where there is none."""
        read = await self._call(
            "subscriptions.retrieve",
            self._client.v1.subscriptions.retrieve_async,
            subscription,
            max_wait_s=max_wait_s,
        )
        return decode(Subscription, _body(read))

    async def running_subscription(self, customer: str) -> Subscription | None:
        """The newest subscription of this customer that has begun and not ended, or None."""
        params: Any = {"customer": customer, "limit": 20}
        page = await self._call("subscriptions.list", self._client.v1.subscriptions.list_async, params)
        found = decode(ListOf[Subscription], _body(page)).data
        return next((each for each in found if each.status in RUNNING), None)

    async def create_invoice(
        self, customer: str, price: str, quantity: int, external_id: str, key: str
    ) -> Invoice:
        """An open invoice for `quantity` of a one-time price; the same for the same `key`. Three calls."""
        draft: Any = {
            "customer": customer,
            "collection_method": "charge_automatically",
            "auto_advance": False,  # the customer confirms it now
            "pending_invoice_items_behavior": "exclude",
            "metadata": {ACCOUNT_METADATA_KEY: external_id},
        }
        made = await self._call(
            "invoices.create",
            self._client.v1.invoices.create_async,
            draft,
            {"idempotency_key": f"{key}-invoice"},
        )
        item: Any = {
            "customer": customer,
            "invoice": made.id,
            "pricing": {"price": price},
            "quantity": quantity,
        }
        await self._call(
            "invoice_items.create",
            self._client.v1.invoice_items.create_async,
            item,
            {"idempotency_key": f"{key}-item"},
        )
        params: Any = {"auto_advance": False, "expand": ["confirmation_secret", "payments"]}
        final = await self._call(
            "invoices.finalize",
            self._client.v1.invoices.finalize_invoice_async,
            made.id,
            params,
            {"idempotency_key": f"{key}-finalize"},
        )
        return decode(Invoice, _body(final))

    async def void_invoice(self, invoice: str) -> None:
        """Void an open invoice."""
        await self._call("invoices.void", self._client.v1.invoices.void_invoice_async, invoice)

    async def invoice_of_intent(self, intent: str) -> str | None:
        """The invoice that a PaymentIntent pays, or None where it pays none."""
        params: Any = {"payment": {"type": "payment_intent", "payment_intent": intent}, "limit": 1}
        page = await self._call("invoice_payments.list", self._client.v1.invoice_payments.list_async, params)
        return str(page.data[0].invoice) if page.data else None

    async def intent_of_charge(self, charge: str) -> str | None:
        """The PaymentIntent that made a charge, or None."""
        read = await self._call("charges.retrieve", self._client.v1.charges.retrieve_async, charge)
        return str(read.payment_intent) if read.payment_intent else None

    async def acquire_read_slot(self, max_wait_s: float) -> None:
        """Wait for a rate limiter slot for `read_invoice`. Raises StripeUnavailable after `max_wait_s`."""
        await self._rate_limiter.take(READ_INVOICE, max_wait_s)

    async def read_invoice(
        self,
        invoice: str,
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
        purpose: Purpose = Purpose.CUSTOMER,
    ) -> Invoice:
        """One invoice, with its payments, their intents and all its lines: one call, more beyond ten lines.

        `slot_acquired`: the caller has acquired the rate limiter slot already. A read for a customer's API
        call has the purpose REQUEST, so that it takes no slot from a payment in progress. Raises
        StripeRefused with code `resource_missing` where there is none.
        """
        if purpose is Purpose.REQUEST:
            await self._rate_limiter.take(READ_INVOICE, self._default_max_wait_s, purpose)
        params: Any = {"expand": ["payments.data.payment.payment_intent", "confirmation_secret"]}
        # The verification queue retries by itself; the SDK's retries would have no slot.
        retries = {"max_network_retries": 0} if slot_acquired else {}
        has_slot = slot_acquired or purpose is Purpose.REQUEST
        path = f"/v1/invoices/{quote(invoice, safe='')}"
        shape = decode(
            Invoice, await self._read(READ_INVOICE, path, {**params, **retries}, max_wait_s, has_slot)
        )
        if not shape.lines.has_more:
            return shape
        return msgspec.structs.replace(shape, lines=await self._all_lines(invoice))

    async def _all_lines(self, invoice: str) -> ListOf[Line]:
        lines: list[Line] = []
        after: dict[str, str] = {}
        for _ in range(MAX_LINE_PAGES):
            params: Any = {"limit": 100, **after}
            page = await self._call(
                "invoices.lines", self._client.v1.invoices.line_items.list_async, invoice, params
            )
            lines.extend(decode(ListOf[Line], _body(page)).data)
            if not page.has_more:
                return ListOf(lines)
            after = {"starting_after": page.data[-1].id}
        return ListOf(lines, has_more=True)

    async def list_prices(self, lookup_keys: Sequence[str]) -> list[PriceInfo]:
        """The active prices of these lookup keys. Stripe takes ten keys a call."""
        found: list[PriceInfo] = []
        for start in range(0, len(lookup_keys), 10):
            params: Any = {"lookup_keys": list(lookup_keys[start : start + 10]), "active": True, "limit": 100}
            page = await self._call("prices.list", self._client.v1.prices.list_async, params)
            found.extend(
                PriceInfo(
                    price.id, price.lookup_key, price.unit_amount, price.currency, _interval(price.recurring)
                )
                for price in page.data
            )
        return found

    async def list_paid_invoices(
        self, since: int, after: str | None = None, max_wait_s: float | None = None, until: int | None = None
    ) -> ListOf[Invoice]:
        """A page of paid invoices created from `since` on, before `until` (Unix seconds), newest first."""
        params: Any = {"status": "paid", "created": {"gte": since}, "limit": 100}
        if until is not None:
            params["created"]["lt"] = until
        if after:
            params["starting_after"] = after
        return decode(ListOf[Invoice], await self._read("invoices.list", "/v1/invoices", params, max_wait_s))

    async def read_reversal(self, kind: type[R], object_id: str) -> R:
        """A refund, a dispute or a credit note as it is now. Raises StripeRefused without it."""
        name, service = self._reversals[kind]
        return decode(kind, _body(await self._call(f"{name}.retrieve", service.retrieve_async, object_id)))

    async def list_reversals(
        self, kind: type[R], since: int, after: str | None = None, max_wait_s: float | None = None
    ) -> ListOf[R]:
        """A page of those created at or after `since` (Unix seconds), newest first."""
        name, service = self._reversals[kind]
        params: Any = {"created": {"gte": since}, "limit": 100}
        if after:
            params["starting_after"] = after
        page = await self._call(f"{name}.list", service.list_async, params, max_wait_s=max_wait_s)
        shapes: ListOf[R] = decode(ListOf[kind], _body(page))  # type: ignore[valid-type]
        return shapes

    async def list_undelivered_events(
        self, types: Sequence[str], since: int, after: str | None = None, max_wait_s: float | None = None
    ) -> ListOf[msgspec.Raw]:
        """A page of undelivered events (raw), newest first. Stripe takes 20 types at a time."""
        params: Any = {
            "delivery_success": False,
            "types": list(types),
            "created": {"gte": since},
            "limit": 100,
        }
        if after:
            params["starting_after"] = after
        page = await self._call(
            "events.list", self._client.v1.events.list_async, params, max_wait_s=max_wait_s
        )
        return decode(ListOf[msgspec.Raw], _body(page))

    async def read_event(self, event: str) -> str:
        """The raw body of one event, which Stripe keeps for 30 days. Raises StripeRefused without it."""
        return _body(await self._call("events.retrieve", self._client.v1.events.retrieve_async, event))

    async def read_account(self) -> str:
        """The id of the account that the key belongs to; a restricted key may be refused."""
        read = await self._call("accounts.retrieve", self._client.v1.accounts.retrieve_current_async)
        return str(read.id)

    async def read_clock(self) -> datetime | None:
        """Stripe's time, to the second, from the headers of a small answer."""
        params: Any = {"limit": 1}
        page = await self._call("prices.list", self._client.v1.prices.list_async, params)
        answered: Any = page.last_response
        headers = {name.lower(): value for name, value in answered.headers.items()}
        return parsedate_to_datetime(headers["date"]) if "date" in headers else None

    async def list_endpoints(self) -> list[EndpointInfo]:
        """The webhook endpoints of the account, newest first. Stripe allows sixteen."""
        params: Any = {"limit": 100}
        page = await self._call("webhook_endpoints.list", self._endpoints.list_async, params)
        return msgspec.json.decode(_body(page), type=ListOf[EndpointInfo]).data

    async def create_endpoint(self, url: str, types: Sequence[str]) -> EndpointInfo:
        """A webhook endpoint at our API version; its answer alone shows the signing secret."""
        params: Any = {"url": url, "enabled_events": list(types), "api_version": API_VERSION}
        made = await self._call("webhook_endpoints.create", self._endpoints.create_async, params)
        return msgspec.json.decode(_body(made), type=EndpointInfo)

    async def update_endpoint(self, endpoint: str, types: Sequence[str]) -> EndpointInfo:
        """Enable an endpoint, and for these types. Its API version cannot be changed."""
        params: Any = {"enabled_events": list(types), "disabled": False}
        made = await self._call("webhook_endpoints.update", self._endpoints.update_async, endpoint, params)
        return msgspec.json.decode(_body(made), type=EndpointInfo)

    async def create_price(self, plan_id: str, plan_name: str, price: PlanPrice) -> str:
        """A product and its price with this lookup key; returns the price's id."""
        params: Any = {
            "currency": price.currency,
            "unit_amount": price.amount_minor,
            "lookup_key": price.lookup_key,
            "product_data": {"name": plan_name, "metadata": {"paidup_plan": plan_id}},
        }
        if price.interval is not Interval.ONCE:
            params["recurring"] = {"interval": price.interval}
        key = f"paidup-price-{price.lookup_key}-{price.amount_minor}-{price.currency}"
        made = await self._call(
            "prices.create", self._client.v1.prices.create_async, params, {"idempotency_key": key}
        )
        return str(made.id)

    async def _read(
        self,
        endpoint: str,
        path: str,
        params: dict[str, Any],
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
    ) -> str:
        """The raw body of a GET. The SDK's objects, which are not used, would cost 5 ms for each invoice."""
        call = partial(self._client.raw_request_async, "get", path, **params)
        answer: Any = await self._call(endpoint, call, max_wait_s=max_wait_s, slot_acquired=slot_acquired)
        return str(answer.body)

    async def _call(
        self,
        endpoint: str,
        call: Callable[..., Awaitable[T]],
        *arguments: Any,
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
    ) -> T:
        if not slot_acquired:
            await self._acquire_slot(endpoint, max_wait_s)
        requested_at = asyncio.get_running_loop().time()
        try:
            answer = await call(*arguments)
        except stripe.RateLimitError as error:
            reason = _header(error, "stripe-rate-limited-reason")
            if reason != OF_ONE_OBJECT:
                await self._rate_limiter.refused(
                    endpoint, requested_at, _seconds(_header(error, "retry-after"))
                )
            raise StripeUnavailable(f"{endpoint}: rate limited ({_describe(error)})", 2.0) from None
        except (stripe.APIConnectionError, stripe.APIError) as error:
            server_failed = (error.http_status or 0) >= 500
            raise StripeUnavailable(
                f"{endpoint}: no good answer ({_describe(error)})", final=server_failed
            ) from None
        except stripe.StripeError as error:
            self._rate_limiter.answered(endpoint)
            raise StripeRefused(
                f"{endpoint}: refused ({_describe(error)})", error.code, error.http_status
            ) from None
        self._rate_limiter.answered(endpoint)
        return answer

    async def _acquire_slot(self, endpoint: str, max_wait_s: float | None) -> None:
        if max_wait_s is None:
            await self._rate_limiter.take(endpoint, self._default_max_wait_s)
        else:
            await self._rate_limiter.take(endpoint, max_wait_s, Purpose.BACKGROUND)


@asynccontextmanager
async def open_gateway(
    key: str, api_base: str, timeout_s: float, rate_limiter: RateLimiter
) -> AsyncIterator[StripeGateway]:
    """A gateway whose connections stay open for the length of the block. Connects to nothing yet."""
    connector = aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_S, limit=50)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = StripeClient(
            key,
            http_client=AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=timeout_s), session=session),
            max_network_retries=NETWORK_RETRIES,
            base_addresses={"api": api_base.rstrip("/")},
        )
        yield StripeGateway(client, rate_limiter, max_wait_s=timeout_s)


def verify_signature(body: bytes, header: str | None, secrets: Sequence[str], tolerance_s: int) -> None:
    """Check Stripe's signature of `body` against each secret. Raises WebhookRefused.

    The SDK accepts timestamps in the future; here they are bounded like old ones.
    """
    signed_at = _signed_at(header or "")
    if not any(_fits(body, header or "", secret) for secret in secrets):
        raise WebhookRefused("The signature does not fit the body.")
    if abs(time.time() - signed_at) > tolerance_s:
        raise WebhookRefused("The signature is too old, or its time lies in the future.")


def _fits(body: bytes, header: str, secret: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, header, secret))
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        return False


def _signed_at(header: str) -> int:
    """The time in a `Stripe-Signature` header, which the SDK reads less strictly."""
    times = re.findall(r"(?:\A|,)t=([^,]*)", header)
    if not header.isascii() or len(times) != 1 or not re.fullmatch("[0-9]{1,12}", times[0]):
        raise WebhookRefused("There is no signature, or it is malformed.")
    return int(times[0])


def _interval(recurring: Any) -> Interval | None:
    if recurring is None:
        return Interval.ONCE
    known = recurring.interval_count == 1 and recurring.interval in ("month", "year")
    return Interval(recurring.interval) if known else None


def _body(answer: Any) -> str:
    return str(answer.last_response.body)


def _describe(error: stripe.StripeError) -> str:
    """What an operator needs to find the error in Stripe's dashboard. Not Stripe's message: it may name
    customers and parts of keys, which belong in no log and no browser.
    """
    known = {
        "HTTP": error.http_status,
        "code": error.code,
        "param": getattr(error, "param", None),
        "reason": _header(error, "stripe-rate-limited-reason"),
        "request": _header(error, "request-id"),
        "cause": type(error.__cause__).__name__ if error.__cause__ else None,
    }
    shown = (f"{name} {value}" for name, value in known.items() if value and TOKEN.fullmatch(str(value)))
    return ", ".join(shown) or type(error).__name__


def _header(error: stripe.StripeError, name: str) -> str:
    headers: dict[str, str] = dict(error.headers or {})
    return next((value for header, value in headers.items() if header.lower() == name), "")


def _seconds(text: str) -> float:
    """What a Retry-After says; 0 for none, or for a date."""
    return float(text) if text.isdecimal() else 0.0
