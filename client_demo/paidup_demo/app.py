"""The demo application: Paidup with the demo's page, and a signed cookie instead of a login.

It adds the page, its files and configuration, and the sandbox's clock. Everything under /api, /ws and
/webhooks is the product, unchanged.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from itsdangerous import BadSignature, URLSafeSerializer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from paidup.app import create_app
from paidup.errors import ConfigurationError, NotAllowed, NotAuthenticated
from paidup.runtime.clock import now
from paidup.runtime.logs import configure_logging
from paidup.settings import Settings, load_settings
from paidup.uvicorn_server import drain_on_signals, uvicorn_options
from paidup.web.auth import Customer
from paidup.web.http import json_response
from paidup.web.problems import problem_of
from paidup_demo import posters, sandbox_clock
from paidup_demo.preparation import prepare
from paidup_demo.sandbox.guard import from_another_page, known_hosts
from paidup_demo.sandbox_clock import SandboxClock
from paidup_demo.timeline.api import TimelineApi

HERE = Path(__file__).parent
FOLDERS = ("page", "lib", "timeline", "sdk", "examples")
FILES = {
    path.relative_to(HERE).as_posix(): path
    for folder in FOLDERS
    for path in (HERE / folder).rglob("*")
    if path.suffix in {".js", ".css", ".svg"}
}
_STATIC = StaticFiles()
EXAMPLES = {path.name: path for path in (HERE / "examples").glob("*.html")}
COOKIE = "paidup_demo"
COOKIE_AGE_S = 365 * 24 * 3600
STRIPE_JS = "https://js.stripe.com/endive/stripe.js"
CHECKOUT = "https://checkout.stripe.com"
PARTS_OF_STRIPE_JS = "https://*.js.stripe.com"
LINK = ("https://link.com", "https://*.link.com")
"""What Checkout, Stripe.js and Link load: https://docs.stripe.com/security/guide#content-security-policy"""


class Demo:
    """The demo's routes and its customer authentication."""

    def __init__(self, settings: Settings, clock: SandboxClock | None) -> None:
        if settings.livemode:
            raise ConfigurationError(["the demo runs with test keys only"])
        self._settings = settings
        self._cookies = URLSafeSerializer(settings.secret_key, salt="paidup.demo.customer")
        self._stripe_js = (
            f"{_origin(settings.stripe_api_base)}/stripe.js" if settings.sandboxed else STRIPE_JS
        )
        self.timeline = TimelineApi(settings, self.authenticate)
        self.routes = [
            Route("/", self.page, methods=["GET"]),
            Route("/demo/closed-tab", self.closed_tab, methods=["GET"]),
            Route("/demo/config.json", self.config, methods=["GET"]),
            Route("/demo/customer", self.new_customer, methods=["POST"]),
            *posters.routes(self.authenticate),
            *self.timeline.routes,
            *(sandbox_clock.routes(clock, self.authenticate) if clock else ()),
            *(Route(f"/demo/examples/{name}", self.page, methods=["GET"]) for name in EXAMPLES),
            Route("/demo/{name:path}", self.file, methods=["GET"]),
        ]

    async def authenticate(self, request: Request) -> Customer:
        """The customer in the cookie. Raises NotAuthenticated."""
        try:
            return Customer(self._cookies.loads(request.cookies.get(COOKIE, "")))
        except BadSignature:
            raise NotAuthenticated("Open the demo's page first: it sets a cookie.") from None

    async def page(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        response = FileResponse(EXAMPLES.get(name, HERE / "page" / "index.html"), headers=self._headers())
        try:
            await self.authenticate(request)
        except NotAuthenticated:
            self._give_cookie(response)
        return response

    async def closed_tab(self, _: Request) -> Response:
        """The page shown in place of a tab that was closed after paying: it does not wait for the payment."""
        return FileResponse(HERE / "timeline" / "closed_tab.html", headers=self._headers())

    async def config(self, request: Request) -> Response:
        customer = await self.authenticate(request)
        settings = self._settings
        return json_response(
            {
                "publishable_key": settings.stripe_publishable_key,
                "stripe_js": self._stripe_js,
                "sandbox": _origin(settings.stripe_api_base) if settings.sandboxed else None,
                "customer": customer.external_id,
            }
        )

    async def new_customer(self, _: Request) -> Response:
        response = Response(status_code=204)
        self._give_cookie(response)
        return response

    async def file(self, request: Request) -> Response:
        path = FILES.get(request.path_params["name"])
        if path is None:
            raise HTTPException(404, "There is no such file.")
        # It answers 304 where the browser has the file: the page has thirty modules, and asks for each.
        response = _STATIC.file_response(path, path.stat(), request.scope)
        response.headers.update({"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
        return response

    def _give_cookie(self, response: Response) -> None:
        value = str(self._cookies.dumps(f"demo-{secrets.token_hex(6)}"))
        response.set_cookie(COOKIE, value, COOKIE_AGE_S, httponly=True, samesite="lax")

    def _headers(self) -> dict[str, str]:
        scripts = _origin(self._stripe_js)
        sandboxed = self._settings.sandboxed
        frames = (
            [scripts]
            if sandboxed
            else [scripts, PARTS_OF_STRIPE_JS, "https://hooks.stripe.com", CHECKOUT, *LINK]
        )
        talks_to = [scripts] if sandboxed else ["https://api.stripe.com", CHECKOUT, *LINK]
        sockets = [origin.replace("http", "ws", 1) for origin in sorted(self._settings.origins)]
        policy = {
            "default-src": ["'self'"],
            "script-src": ["'self'", scripts, *([] if sandboxed else [PARTS_OF_STRIPE_JS, CHECKOUT])],
            "style-src": ["'self'", "'unsafe-inline'"],  # Stripe.js styles its elements inline
            "connect-src": ["'self'", *talks_to, *sockets],
            "frame-src": frames,
            "img-src": [
                "'self'",
                "data:",
                "blob:",
                *([] if sandboxed else ["https://*.stripe.com", LINK[1]]),
            ],
            "object-src": ["'none'"],
            "base-uri": ["'none'"],
            "form-action": ["'self'"],
            "frame-ancestors": ["'none'"],
        }
        return {
            "Content-Security-Policy": "; ".join(f"{name} {' '.join(of)}" for name, of in policy.items()),
            "Cache-Control": "no-cache",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }


def create_demo(settings: Settings) -> Starlette:
    """Paidup with the demo's page. Raises ConfigurationError for live keys."""
    clock = SandboxClock(_origin(settings.stripe_api_base)) if settings.sandboxed else None
    demo = Demo(settings, clock)
    app = create_app(settings, authenticate=demo.authenticate, extra_routes=demo.routes, clock=clock or now)
    app.add_middleware(demo.timeline.record_transports)
    app.add_middleware(_own_pages_only, settings)
    # Added last, so outermost: requests with an unknown Host header are rejected first.
    hosts = known_hosts([settings.host], settings.origins)
    app.add_middleware(hosts.cls, *hosts.args, **hosts.kwargs)
    if clock is not None:
        _follow(app, clock)
    return app


def _own_pages_only(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Reject changes requested by other pages: the browser would send the customer's cookie along."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        changing = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changing and from_another_page(Request(scope), settings.origins):
            rejection = problem_of(NotAllowed("Only the demo's own pages may do that."))
            await rejection(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded


def _follow(app: Starlette, clock: SandboxClock) -> None:
    """Follow the sandbox's clock for as long as the app runs, starting before it."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(of: Starlette) -> AsyncIterator[None]:
        async with clock.followed(), inner(of):
            yield

    app.router.lifespan_context = lifespan


def main(first: str = "", sandbox: str = "") -> None:
    """Serve the demo with the environment's settings until SIGINT or SIGTERM.

    With `first` ("prepare"), it is prepared before: see preparation.py, also for `sandbox`.
    """
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    if first:
        asyncio.run(prepare(settings, sandbox))
    app = drain_on_signals(create_demo(settings))
    uvicorn.run(app, host=settings.host, port=settings.port, **uvicorn_options(settings))


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


if __name__ == "__main__":
    main()
