"""The sandbox as an ASGI app: its routes and lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from paidup_demo.sandbox import (
    api_billing,
    api_catalogue,
    api_checkout,
    api_credit_notes,
    api_elements,
    api_events,
    api_payment_links,
    api_payment_pages,
    api_payments,
    api_subscriptions,
    bank_page,
    challenge,
    checkout_page,
    checkout_payment,
    controls,
    debits,
    deletion,
    due,
    invoices,
    payments,
    promotion_codes,
    subscription_outcomes,
    taxes,
    voucher_outcomes,
    voucher_page,
)
from paidup_demo.sandbox.api import Api, Operation, unknown_url
from paidup_demo.sandbox.guard import known_hosts
from paidup_demo.sandbox.settings import SandboxSettings
from paidup_demo.sandbox.world import World

logger = logging.getLogger(__name__)
HERE = Path(__file__).parent
OPERATIONS = [
    *api_catalogue.OPERATIONS,
    *deletion.OPERATIONS,
    *api_billing.OPERATIONS,
    *api_subscriptions.OPERATIONS,
    *api_credit_notes.OPERATIONS,
    *api_payments.OPERATIONS,
    *api_checkout.OPERATIONS,
    *api_payment_links.OPERATIONS,
    *api_payment_pages.OPERATIONS,
    *promotion_codes.OPERATIONS,
    *api_elements.OPERATIONS,
    *api_events.OPERATIONS,
    *taxes.OPERATIONS,
]
TICK_EVERY_S = 30.0
PANEL_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'"}
"""Prevents clickjacking: no other page may embed these."""


def create_sandbox(settings: SandboxSettings) -> Starlette:
    """Create one sandbox with its own state."""
    world = World(settings)
    _register_jobs(world)
    api = Api(world)
    routes = [
        *[_route(api, operation) for operation in OPERATIONS],
        *controls.routes(world),
        Route("/stripe.js", _stripe_js),
        Route("/bank.css", _file("bank.css", "text/css")),
        Route("/challenge/{id}", challenge.page(world)),
        *checkout_page.routes(world),
        api_payment_links.route(world),
        Route("/bank/{id}", bank_page.page(world), methods=["GET", "POST"]),
        Route("/voucher/{id}", voucher_page.page(world), methods=["GET", "POST"]),
        Route("/voucher/{id}/pdf", voucher_page.page(world)),
        Route("/panel", _file("panel.html", "text/html", PANEL_HEADERS)),
        Route("/", _file("panel.html", "text/html", PANEL_HEADERS)),
        Route("/{path:path}", unknown_url, methods=["GET", "POST", "DELETE", "PUT", "PATCH"]),
    ]
    middleware = [known_hosts([settings.host, *settings.allowed_hosts]), _cors(settings)]
    return Starlette(routes=routes, middleware=middleware, lifespan=_lifespan(world))


def _register_jobs(world: World) -> None:
    """The functions behind the agenda's jobs: connects modules that must not import each other."""
    world.agenda.jobs = {
        "deliver": world.webhook_sender.send,
        "begin_debit": partial(debits.begin, world),
        "decide_voucher": partial(voucher_outcomes.decide_by_id, world),
        "finish_processing": partial(payments.finish_processing, world),
        "settle_invoice": partial(invoices.settle, world),
        "note_failed_payment": partial(invoices.note_failed_payment, world),
        "note_processing": partial(subscription_outcomes.on_invoice_processing, world),
        "note_required_action": partial(invoices.note_required_action, world),
        "invoice_paid": partial(subscription_outcomes.on_invoice_paid, world),
        "invoice_unpaid": partial(subscription_outcomes.on_invoice_unpaid, world),
        "invoice_voided": partial(subscription_outcomes.on_invoice_voided, world),
        "finish_setup": partial(subscription_outcomes.on_setup_finished, world),
        "checkout_paid": partial(checkout_payment.on_paid, world),
        "checkout_processing": partial(checkout_payment.on_processing, world),
        "checkout_refused": partial(checkout_payment.on_refused, world),
    }


def _route(api: Api, operation: Operation) -> Route:
    async def endpoint(request: Request) -> Response:
        return await api.answer(operation, request)

    return Route(operation.route, endpoint, methods=[operation.method], name=operation.name)


async def _stripe_js(_: Request) -> Response:
    """One script, as Stripe's, in two files here."""
    script = "\n".join((HERE / name).read_text("utf-8") for name in ("stripe.js", "stripe_checkout.js"))
    return Response(script, media_type="text/javascript", headers={"Cache-Control": "no-cache"})


def _file(
    name: str, media_type: str, headers: Mapping[str, str] | None = None
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        more = {"Cache-Control": "no-cache", **(headers or {})}
        return FileResponse(HERE / name, media_type=media_type, headers=more)

    return endpoint


def _cors(settings: SandboxSettings) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=list(settings.allowed_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
        expose_headers=["Request-Id"],
    )


def _lifespan(world: World) -> Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await world.start()
        closing = asyncio.Event()
        background = asyncio.create_task(_run_in_background(world, closing))
        try:
            yield
        finally:
            closing.set()
            await background
            await world.stop()

    return lifespan


async def _run_in_background(world: World, closing: asyncio.Event) -> None:
    """Save changes and run what is due. Cancellation never interrupts a save."""
    loop = asyncio.get_running_loop()
    next_tick = loop.time() + TICK_EVERY_S
    while not closing.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), world.settings.save_interval_s)
        try:
            await world.save()
        except OSError:
            logger.exception("the sandbox's state could not be saved")
        if loop.time() >= next_tick:
            next_tick += TICK_EVERY_S
            due.act_on_time(world)
