"""Builds the ASGI application: routes, lifespan, middleware and exception handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute

from paidup.errors import ConfigurationError, PaidupError
from paidup.key_sets import KeySet
from paidup.runtime.clock import Clock, now
from paidup.runtime.event_loop import measure_delays
from paidup.runtime.tasks import cancel_tasks
from paidup.services import delivering_events, open_services
from paidup.settings import Settings, process_problems
from paidup.web import cors, problems, request_ids
from paidup.web.auth import Authenticate, bearer_authentication
from paidup.web.routes import ROUTES
from paidup.web.startup_faults import STARTUP_FAULTS
from paidup.web.traces import TRACES
from paidup.web.websocket import endpoint


def create_app(
    settings: Settings,
    authenticate: Authenticate | None = None,
    extra_routes: Sequence[BaseRoute] = (),
    clock: Clock = now,
) -> Starlette:
    """Paidup as an ASGI application.

    Nothing is connected before its lifespan begins. A framework that mounts it does not run that
    lifespan: use `mounting.running`. `authenticate` identifies the customer of a request (default:
    bearer JWT). `extra_routes` come after Paidup's own. `clock` is the time by which credits expire and
    installments are granted. Raises ConfigurationError if the settings need `paidup serve`, or if
    nothing identifies customers.
    """
    # `paidup serve` starts one Valkey for all its workers; `uvicorn --workers` would start none.
    if found := process_problems(settings, verifies_tokens=authenticate is None):
        raise ConfigurationError(found)
    key_set = None
    if authenticate is None:
        if settings.auth_jwks_url:
            key_set = KeySet(settings.auth_jwks_url, settings.auth_jwks_refresh_s, outgoing=settings.outgoing)
        authenticate = bearer_authentication(settings, key_set)

    app = Starlette(
        routes=[*ROUTES, *extra_routes],
        lifespan=_lifespan(settings, key_set, clock),
        middleware=[STARTUP_FAULTS, request_ids.middleware(settings), TRACES, cors.middleware(settings)],
        exception_handlers={
            PaidupError: problems.on_paidup_error,
            HTTPException: problems.on_http_exception,
            ClientDisconnect: problems.on_client_left,
            Exception: problems.on_exception,
        },
    )
    # Starlette would redirect `/path/` to `/path` at whatever host the request names.
    app.router.redirect_slashes = False
    app.state.authenticate = authenticate
    app.state.own_middleware = list(app.user_middleware)
    return app


def _lifespan(
    settings: Settings, key_set: KeySet | None, clock: Clock
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with (
            open_services(settings, clock) as services,
            delivering_events(services),
            key_set.kept_fresh(services.metrics) if key_set else nullcontext(),
        ):
            services.prices.require_same()  # before any page is shown a price
            app.state.services = services
            app.state.sockets = sockets = endpoint.SocketServer(services)
            deadlines = asyncio.create_task(sockets.enforce_deadlines_forever(), name="socket-deadlines")
            delays = measure_delays(services.metrics.event_loop_delay.observe)
            measuring = asyncio.create_task(delays, name="event-loop-delay")
            try:
                yield
            finally:
                await cancel_tasks(deadlines, measuring)
                await sockets.close()

    return lifespan
