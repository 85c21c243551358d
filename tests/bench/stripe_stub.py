"""Stripe's side of the benches: invoices that are open until they are marked as paid, answered from memory.

Much lighter than the sandbox, which is there to be true and not to be fast. The state of each invoice
stands in memory that the processes of the bench share.
"""

from __future__ import annotations

import asyncio
import json
import time
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from paidup.domain.plans_toml import parse_catalogue
from paidup.settings import PACKAGED_PLANS
from tests.support.bulk_fixtures import AMOUNT_MINOR, an_invoice, name_of, paid_event

SPREAD_S = 600
"""Over how long the invoices were made before the bench began."""
PAGE = 100
OPEN, PAID, PROCESSING = range(3)
_INTENTS = {OPEN: "requires_payment_method", PAID: "succeeded", PROCESSING: "processing"}


class Stripe:
    """So many first invoices of a monthly plan; number n belongs to the customer `cus_n`."""

    def __init__(self, count: int, rest: dict[str, Any] | None = None) -> None:
        """`rest`: what else each invoice says, so that it is as large as one of Stripe's."""
        self._rest = rest or {}
        self.states = RawArray("b", count)
        """OPEN, PAID or PROCESSING."""
        self.verified = RawArray("b", count)
        """1 for each invoice that was read by itself."""
        self.asked = RawValue("q")
        """Requests until now."""
        self._began = int(time.time()) - SPREAD_S

    def created(self, number: int) -> int:
        """When it was made, Unix seconds."""
        return self._began + number * SPREAD_S // len(self.states)

    def paid_event(self, number: int) -> bytes:
        """The bytes of `invoice.paid`."""
        return paid_event(number, self.created(number))

    def paid_page(self, query: str) -> dict[str, Any]:
        """A page of GET /v1/invoices?status=paid, newest first."""
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        since, until = int(asked.get("created[gte]", 0)), int(asked.get("created[lt]", 2**40))
        after = asked.get("starting_after", name_of(len(self.states)))
        found: list[int] = []
        for number in range(int(after.rpartition("_")[2]) - 1, -1, -1):
            if self.states[number] == PAID and since <= self.created(number) < until:
                found.append(number)
                if len(found) > PAGE:
                    break
        data = [self.invoice(number) for number in found[:PAGE]]
        return {"object": "list", "data": data, "has_more": len(found) > PAGE}

    def invoice(self, number: int, payments: bool = False) -> dict[str, Any]:
        """In the API's shape; with its payments where they were asked for."""
        shown = an_invoice(number, self.created(number), self.states[number] == PAID)
        return {**self._rest, **shown, **(self._payments(number) if payments else {})}

    def _payments(self, number: int) -> dict[str, Any]:
        intent, paid = f"pi_{number:06d}", self.states[number] == PAID
        payment = {
            "id": intent,
            "object": "payment_intent",
            "status": _INTENTS[self.states[number]],
            "customer": f"cus_{number:06d}",
            "currency": "usd",
            "amount": AMOUNT_MINOR,
            "amount_received": AMOUNT_MINOR if paid else 0,
        }
        link = {
            "id": f"inpay_{number:06d}",
            "object": "invoice_payment",
            "invoice": name_of(number),
            "status": "paid" if paid else "open",
            "created": self.created(number),
            "payment": {"type": "payment_intent", "payment_intent": payment},
        }
        return {
            "confirmation_secret": {"client_secret": f"{intent}_secret_x"},
            "payments": {"object": "list", "data": [link], "has_more": False},
        }


def _prices() -> dict[str, Any]:
    data = [
        {
            "id": f"price_{price.lookup_key}",
            "object": "price",
            "product": f"prod_{plan.id}",
            "lookup_key": price.lookup_key,
            "unit_amount": price.amount_minor,
            "currency": price.currency,
            "recurring": {"interval": price.interval, "interval_count": 1}
            if price.interval in ("month", "year")
            else None,
        }
        for plan in parse_catalogue(PACKAGED_PLANS.read_bytes()).plans
        for price in plan.prices
    ]
    return {"object": "list", "data": data, "has_more": False}


def serve_stripe(port: int, stripe: Stripe, delay_s: float = 0.0) -> None:
    """GET /v1/invoices/{id} and the lists that the server asks for, until the process is ended."""
    prices, nothing = _prices(), {"object": "list", "data": [], "has_more": False}

    def answer(path: str, query: str) -> dict[str, Any]:
        if path.startswith("/v1/invoices/in_"):
            number = int(path.rpartition("_")[2])
            stripe.verified[number] = 1
            return stripe.invoice(number, payments=True)
        if path == "/v1/invoices":
            return stripe.paid_page(query)
        return prices if path == "/v1/prices" else nothing

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stripe.asked.value += 1
        if delay_s:
            await asyncio.sleep(delay_s)
        body = answer(scope["path"], scope["query_string"].decode())
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=600,
    )
