"""The race: what happened to a customer's own purchase, and the same purchase made in other ways.

Owns the demo's routes under /demo/race: an invoice's timeline for the picture, the moments that can be
asked for (`moments.py`), and three extra customers who buy at once, so that Paidup can be compared with
waiting for the webhook and with polling. All of it is read from what really happened. Refuses to show
an invoice to anybody but the customer who pays it, and to bring about anything unless the sandbox and
the asker are both on this machine.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import MutableMapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from paidup.clock import now
from paidup.db.connection import storage_errors
from paidup.db.models import Account, Invoice, TimelineEntry
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import Conflict, NotAllowed, NotFound
from paidup.payments.timeline import TimelineEventType
from paidup.settings import Settings
from paidup.web.auth import Authenticate
from paidup.web.dependencies import get_services
from paidup.web.http import json_response, read_json
from paidup.web.websocket.lightweight_protocol import RAW_TRANSPORT_EXTENSION, TakeOverTransport
from paidup.web.websocket.transport import Transport
from paidup_demo.sandbox.guard import is_loopback
from paidup_demo.timeline import fault_injection as moments
from paidup_demo.timeline.fault_injection import Moment

STEPS = 300
INVOICE = re.compile(r"in_\w{1,250}", re.ASCII)
OTHERS = "~"
"""Between a customer's name and that of the extra ones who buy for his comparison."""
WAYS = ("paidup", "polling", "webhook")
MOST_OTHERS = 20 * len(WAYS)
PAYING_EVENTS = frozenset({"invoice.paid", "invoice.payment_succeeded", "invoice_payment.paid"})
SOCKETS = "/ws/invoices/"
MOST_WIRES = 64


class MomentBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`socket` cuts the sockets on `invoice`; the others are the supervisor's, and need none."""

    what: Literal["socket", "restart", "redis"]
    invoice: str = ""


class TimelineEvent(msgspec.Struct, frozen=True):
    """One entry of the timeline. `at` is milliseconds since 1970, as in all that the page is told here."""

    at: float
    what: str
    detail: dict[str, Any]


class Happened(msgspec.Struct, frozen=True):
    """A moment of the demo. `ended` is None while it lasts."""

    what: str
    began: float
    ended: float | None


class Picture(msgspec.Struct, frozen=True):
    """All that the picture is drawn from. `now` is the server's clock when it answered."""

    invoice: str
    status: str
    steps: list[TimelineEvent]
    moments: list[Happened]
    now: float


class Race:
    """The routes, and the wires of the sockets that may be cut."""

    def __init__(self, settings: Settings, authenticate: Authenticate) -> None:
        self._authenticate = authenticate
        self._origins = settings.origins
        self._supervisor = moments.address(settings.data_dir)
        self._at_home = settings.sandboxed and _is_here(urlsplit(settings.stripe_api_base).hostname or "")
        self._wires: deque[tuple[str, Transport]] = deque(maxlen=MOST_WIRES)
        self.routes = [
            Route("/demo/race", self.latest, methods=["GET"]),
            Route("/demo/race/moments", self.bring_about, methods=["POST"]),
            Route("/demo/race/others", self.begin_others, methods=["POST"]),
            Route("/demo/race/others/{invoice}", self.ask_for_other, methods=["GET"]),
            Route("/demo/race/{invoice}", self.picture, methods=["GET"]),
        ]

    # What happened

    async def latest(self, request: Request) -> Response:
        """The customer's newest invoice of which there was news, and what can be brought about here."""
        customer = await self._authenticate(request)
        with storage_errors():
            rows = Invoice.filter(account__external_id=customer.external_id)
            newest = await rows.exclude(status=InvoiceStatus.OPEN).order_by("-created_at").first()
        can = [*(await moments.ask(self._supervisor)).can, "socket"] if self._at_home else []
        return json_response({"invoice": newest.id if newest else None, "can": can, "now": _ms(now())})

    async def picture(self, request: Request) -> Response:
        row = await self._own(request)
        told = await moments.ask(self._supervisor) if self._at_home else moments.Told()
        with storage_errors():
            entries = await TimelineEntry.filter(invoice=row.id).order_by("at", "id").limit(STEPS)
        return json_response(
            Picture(
                invoice=row.id,
                status=row.status,
                steps=[
                    TimelineEvent(_ms(entry.at), entry.event_type, entry.detail or {}) for entry in entries
                ],
                moments=[_happened(moment) for moment in told.moments if _since(moment, row.created_at)],
                now=_ms(now()),
            )
        )

    # What is made to happen

    async def bring_about(self, request: Request) -> Response:
        self._refuse_strangers(request)
        await self._authenticate(request)
        body = await read_json(request, MomentBody)
        if body.what == "socket":
            request.path_params["invoice"] = body.invoice
            row = await self._own(request)
            for invoice, wire in self._wires:
                if invoice == row.id:
                    wire.abort()
        else:
            await moments.ask(self._supervisor, body.what)
        return Response(status_code=204)

    def watching(self, app: ASGIApp) -> ASGIApp:
        """The same application; the wires of the newest sockets on invoices are known here."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket" and scope["path"].startswith(SOCKETS):
                self._watch(scope, scope["path"].removeprefix(SOCKETS))
            await app(scope, receive, send)

        return watched

    def _watch(self, scope: MutableMapping[str, Any], invoice: str) -> None:
        extensions = scope.get("extensions") or {}
        take_over: TakeOverTransport | None = extensions.get(RAW_TRANSPORT_EXTENSION)
        if take_over is None:
            return

        def noted(owner: Any) -> Any:
            wire = take_over(owner)
            self._wires.append((invoice, wire))
            return wire

        scope["extensions"] = {**extensions, RAW_TRANSPORT_EXTENSION: noted}

    # The same purchase in other ways

    async def begin_others(self, request: Request) -> Response:
        """Three new customers with the same plan to pay: their invoices, tickets and client secrets."""
        self._refuse_strangers(request)
        customer = await self._authenticate(request)
        services = get_services(request)
        prefix = f"{customer.external_id}{OTHERS}"
        with storage_errors():
            made = await Account.filter(external_id__startswith=prefix).count()
        if made >= MOST_OTHERS:
            raise Conflict("That is enough of comparing for one customer. Start over as a new one.")
        plan = next(plan for plan in services.catalogue.plans if not plan.top_up)
        run = secrets.token_hex(3)

        async def buy(way: str) -> dict[str, Any]:
            account = await services.purchases.account(f"{prefix}{run}-{way}")
            purchase = await services.purchases.buy(account, plan.id)
            invoice = purchase.status.invoice
            ticket = services.tickets.issue(invoice, account.id)
            return {"invoice": invoice, "ticket": ticket, "client_secret": purchase.client_secret}

        bought = await asyncio.gather(*(buy(way) for way in WAYS))
        return json_response(dict(zip(WAYS, bought, strict=True)), 201)

    async def ask_for_other(self, request: Request) -> Response:
        """Whether one of the extra customers may use his plan yet, found out in the way that his name says.

        `polling` asks Stripe at each call, as such a server would; `webhook` knows what it was sent.
        """
        row = await self._own(request)
        if row.account.external_id.endswith("-polling"):
            facts = (await get_services(request).gateway.read_invoice(row.id)).facts()
            assert facts.invoice is not None
            paid = [payment.status for payment in facts.payments]
            return json_response({"usable": facts.invoice.status == "paid" or "succeeded" in paid})
        heard = TimelineEntry.filter(invoice=row.id, event_type=TimelineEventType.WEBHOOK_RECEIVED)
        with storage_errors():
            types = [(entry.detail or {}).get("type") for entry in await heard.limit(STEPS)]
        return json_response({"usable": not PAYING_EVENTS.isdisjoint(types)})

    # Who may

    async def _own(self, request: Request) -> Invoice:
        """The invoice in the path, if whoever asks pays it, or compares with it. Raises NotFound."""
        customer = await self._authenticate(request)
        invoice = request.path_params["invoice"]
        if INVOICE.fullmatch(invoice):  # anything else never reaches the database
            with storage_errors():
                row = await Invoice.filter(id=invoice).select_related("account").first()
            if row is not None and row.account.external_id.partition(OTHERS)[0] == customer.external_id:
                return row
        raise NotFound("There is no such invoice of this customer.")

    def _refuse_strangers(self, request: Request) -> None:
        """Any page may send a POST to the loopback interface: only ours may change what happens there."""
        near = request.client is not None and is_loopback(request.client.host)
        if not (self._at_home and near and request.headers.get("origin") in self._origins):
            raise NotAllowed("Only the demo's own page, with the sandbox on this machine, may do that.")


def _is_here(host: str) -> bool:
    return host == "localhost" or is_loopback(host)


def _since(moment: Moment, begin: datetime) -> bool:
    return moment.ended is None or moment.ended >= begin


def _happened(moment: Moment) -> Happened:
    return Happened(moment.what, _ms(moment.began), _ms(moment.ended) if moment.ended else None)


def _ms(at: datetime) -> float:
    return at.timestamp() * 1000
