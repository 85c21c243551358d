"""The demo's routes under /demo/timeline: an invoice's events, fault injection, and the comparison.

The comparison creates three extra customers who buy the same plan, to compare Paidup with polling and with
the webhook alone. An invoice is shown only to the customer who pays it. Faults and comparisons are allowed
only if both the sandbox and the client are on this machine.
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

from paidup.db.connection import storage_errors
from paidup.db.models import Account, CheckoutSession, Invoice, TimelineEntry
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import Conflict, NotAllowed, NotFound
from paidup.payments.timeline import TimelineEventType
from paidup.runtime.clock import now
from paidup.settings import Settings
from paidup.web.auth import Authenticate
from paidup.web.dependencies import get_services
from paidup.web.http import json_response, read_json
from paidup.web.websocket.lightweight_protocol import RAW_TRANSPORT_EXTENSION, TakeOverTransport
from paidup.web.websocket.transport import Transport
from paidup_demo.sandbox.guard import is_loopback
from paidup_demo.timeline.fault_injection import Fault, FaultReport, control_socket, request_fault

MAX_EVENTS = 300
INVOICE = re.compile(r"in_\w{1,250}", re.ASCII)
SESSION = re.compile(r"cs_\w{1,250}", re.ASCII)
COMPARISON_MARK = "~"
"""Separates a customer's id from the suffix of the extra customers of their comparison."""
METHODS = ("paidup", "polling", "webhook")
MAX_COMPARISON_ACCOUNTS = 20 * len(METHODS)
PAYING_EVENTS = frozenset({"invoice.paid", "invoice.payment_succeeded", "invoice_payment.paid"})
SOCKET_PATHS = ("/ws/invoices/", "/ws/checkout/")
MAX_TRANSPORTS = 64


class FaultBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`socket` closes the WebSockets of `invoice`; the others go to the supervisor and need no invoice."""

    type: Literal["socket", "restart", "redis"]
    invoice: str = ""


class TimelineEvent(msgspec.Struct, frozen=True):
    """One entry of the timeline. `at` is in milliseconds since 1970, as are all times in these answers."""

    at: float
    type: str
    detail: dict[str, Any]


class InjectedFault(msgspec.Struct, frozen=True):
    """A fault that was injected. `ended` is None while it lasts."""

    type: str
    started: float
    ended: float | None


class TimelineSnapshot(msgspec.Struct, frozen=True):
    """Everything the timeline is drawn from. `invoice` is the id that was asked for, perhaps a session's.

    `now` is the server's clock when it answered.
    """

    invoice: str
    status: str
    events: list[TimelineEvent]
    faults: list[InjectedFault]
    now: float


class TimelineApi:
    """The routes, and the transports of the newest WebSockets, so that a fault can close them."""

    def __init__(self, settings: Settings, authenticate: Authenticate) -> None:
        self._authenticate = authenticate
        self._origins = settings.origins
        self._supervisor = control_socket(settings.data_dir)
        self._local_sandbox = settings.sandboxed and _is_local(
            urlsplit(settings.stripe_api_base).hostname or ""
        )
        self._transports: deque[tuple[str, Transport]] = deque(maxlen=MAX_TRANSPORTS)
        self.routes = [
            Route("/demo/timeline", self.latest, methods=["GET"]),
            Route("/demo/timeline/faults", self.inject_fault, methods=["POST"]),
            Route("/demo/timeline/comparison", self.start_comparison, methods=["POST"]),
            Route("/demo/timeline/comparison/{invoice}", self.comparison_status, methods=["GET"]),
            Route("/demo/timeline/invoices/{invoice}", self.snapshot, methods=["GET"]),
        ]

    # Events

    async def latest(self, request: Request) -> Response:
        """The customer's newest invoice that is no longer open, and the faults available here."""
        customer = await self._authenticate(request)
        with storage_errors():
            rows = Invoice.filter(account__external_id=customer.external_id)
            newest = await rows.exclude(status=InvoiceStatus.OPEN).order_by("-created_at").first()
        faults = [*(await request_fault(self._supervisor)).available, "socket"] if self._local_sandbox else []
        return json_response(
            {"invoice": newest.id if newest else None, "available_faults": faults, "now": _ms(now())}
        )

    async def snapshot(self, request: Request) -> Response:
        session = await self._own_session(request)
        row = await self._own_invoice(request) if session is None else None
        with storage_errors():
            if session is not None and session.invoice:
                row = await Invoice.get_or_none(id=session.invoice)
            elif row is not None and row.checkout:
                session = await CheckoutSession.get_or_none(id=row.checkout)
        report = await request_fault(self._supervisor) if self._local_sandbox else FaultReport()
        of = [each.id for each in (row, session) if each is not None]
        began = min(each.created_at for each in (row, session) if each is not None)
        with storage_errors():
            entries = await TimelineEntry.filter(invoice__in=of).order_by("at", "id").limit(MAX_EVENTS)
        events = [TimelineEvent(_ms(entry.at), entry.event_type, entry.detail or {}) for entry in entries]
        return json_response(
            TimelineSnapshot(
                invoice=request.path_params["invoice"],
                status=row.status if row else InvoiceStatus.OPEN,
                events=sorted([*events, *_session_events(session)], key=lambda event: event.at),
                faults=[_injected(fault) for fault in report.faults if _lasted_after(fault, began)],
                now=_ms(now()),
            )
        )

    # Faults

    async def inject_fault(self, request: Request) -> Response:
        self._require_own_page(request)
        await self._authenticate(request)
        body = await read_json(request, FaultBody)
        if body.type == "socket":
            request.path_params["invoice"] = body.invoice
            row = await self._own_session(request) or await self._own_invoice(request)
            for followed, transport in self._transports:
                if followed == row.id:
                    transport.abort()
        else:
            await request_fault(self._supervisor, body.type)
        return Response(status_code=204)

    def record_transports(self, app: ASGIApp) -> ASGIApp:
        """Middleware that remembers the transports of the newest WebSockets on payments."""

        async def recording(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket" and scope["path"].startswith(SOCKET_PATHS):
                self._record(scope, scope["path"].rpartition("/")[2])
            await app(scope, receive, send)

        return recording

    def _record(self, scope: MutableMapping[str, Any], invoice: str) -> None:
        extensions = scope.get("extensions") or {}
        take_over: TakeOverTransport | None = extensions.get(RAW_TRANSPORT_EXTENSION)
        if take_over is None:
            return

        def recorded(handler: Any) -> Any:
            transport = take_over(handler)
            self._transports.append((invoice, transport))
            return transport

        scope["extensions"] = {**extensions, RAW_TRANSPORT_EXTENSION: recorded}

    # Comparison

    async def start_comparison(self, request: Request) -> Response:
        """Create three customers with the same plan to pay: their invoices, tickets and client secrets."""
        self._require_own_page(request)
        customer = await self._authenticate(request)
        services = get_services(request)
        prefix = f"{customer.external_id}{COMPARISON_MARK}"
        with storage_errors():
            made = await Account.filter(external_id__startswith=prefix).count()
        if made >= MAX_COMPARISON_ACCOUNTS:
            raise Conflict("Too many comparisons for one customer. Start over as a new customer.")
        plan = next(plan for plan in services.catalogue.plans if not plan.top_up)
        run = secrets.token_hex(3)

        async def order(method: str) -> dict[str, Any]:
            account = await services.accounts.get(f"{prefix}{run}-{method}")
            purchase = await services.checkout.buy(account, plan.id)
            invoice = purchase.status.invoice
            ticket = services.tickets.issue(invoice, account.id)
            return {"invoice": invoice, "ticket": ticket, "client_secret": purchase.client_secret}

        orders = await asyncio.gather(*(order(method) for method in METHODS))
        return json_response(dict(zip(METHODS, orders, strict=True)), 201)

    async def comparison_status(self, request: Request) -> Response:
        """Whether an extra customer can use their plan yet, by the method in their id.

        `polling` asks Stripe on every call; `webhook` looks for a received webhook.
        """
        row = await self._own_invoice(request)
        if row.account.external_id.endswith("-polling"):
            facts = (await get_services(request).gateway.read_invoice(row.id)).facts()
            assert facts.invoice is not None
            paid = [payment.status for payment in facts.payments]
            return json_response({"usable": facts.invoice.status == "paid" or "succeeded" in paid})
        received = TimelineEntry.filter(invoice=row.id, event_type=TimelineEventType.WEBHOOK_RECEIVED)
        with storage_errors():
            types = [(entry.detail or {}).get("type") for entry in await received.limit(MAX_EVENTS)]
        return json_response({"usable": not PAYING_EVENTS.isdisjoint(types)})

    # Access

    async def _own_invoice(self, request: Request) -> Invoice:
        """The invoice in the path, if it is the customer's own or of their comparison. Raises NotFound."""
        customer = await self._authenticate(request)
        invoice = request.path_params["invoice"]
        if INVOICE.fullmatch(invoice):  # anything else never reaches the database
            with storage_errors():
                row = await Invoice.filter(id=invoice).select_related("account").first()
            if (
                row is not None
                and row.account.external_id.partition(COMPARISON_MARK)[0] == customer.external_id
            ):
                return row
        raise NotFound("This customer has no such invoice.")

    async def _own_session(self, request: Request) -> CheckoutSession | None:
        """The customer's own Checkout Session in the path; None if the path names no session."""
        customer = await self._authenticate(request)
        session = request.path_params["invoice"]
        if not SESSION.fullmatch(session):
            return None
        with storage_errors():
            own = CheckoutSession.filter(id=session, account__external_id=customer.external_id)
            row = await own.first()
        if row is None:
            raise NotFound("This customer has no such Checkout Session.")
        return row

    def _require_own_page(self, request: Request) -> None:
        """Any website can send a POST to the loopback interface: accept only the demo's own page."""
        near = request.client is not None and is_loopback(request.client.host)
        if not (self._local_sandbox and near and request.headers.get("origin") in self._origins):
            raise NotAllowed("Only the demo's own page, with the sandbox on this machine, may do that.")


def _session_events(session: CheckoutSession | None) -> list[TimelineEvent]:
    """What the row of a session knows: when it was opened here, and first known to be complete."""
    if session is None:
        return []
    times = {"checkout_opened": session.created_at, "checkout_completed": session.completed_at}
    return [TimelineEvent(_ms(at), name, {}) for name, at in times.items() if at is not None]


def _is_local(host: str) -> bool:
    return host == "localhost" or is_loopback(host)


def _lasted_after(fault: Fault, start: datetime) -> bool:
    return fault.ended is None or fault.ended >= start


def _injected(fault: Fault) -> InjectedFault:
    return InjectedFault(fault.type, _ms(fault.started), _ms(fault.ended) if fault.ended else None)


def _ms(at: datetime) -> float:
    return at.timestamp() * 1000
