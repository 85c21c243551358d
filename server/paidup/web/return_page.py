"""GET /activate?session_id=cs_…: the page that a customer comes back to from Stripe's.

They may have come without a cookie, in another browser, or without scripts. A session that is not
settled yet is verified in the very request, so that most customers are active on the first paint; the
script then follows the session on its WebSocket. Reading the page changes nothing else: a mail scanner
may fetch it, and neither HEAD nor a prefetch asks Stripe. It sends nobody to an address whose origin
is not allowed.
"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.connection import storage_errors
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import CheckoutMessage
from paidup.domain.onward_addresses import allowed_origin, origin_of
from paidup.domain.stages import Stage
from paidup.errors import StorageUnavailable, StripeError, TooManyRequests
from paidup.realtime.checkout_queries import read_return_address
from paidup.web.checkout_status import find_checkout
from paidup.web.dependencies import get_services
from paidup.web.return_markup import SCRIPT, SCRIPT_TAG, Shown, render

REFRESH_S = (2, 3, 5, 5, 10, 10, 15, 15, 30)
"""A page without a script asks again after these, then every minute."""
SLOW_REFRESH_S = 60
MAX_REFRESHES = 240
"""Four hours; then the customer reloads the page by themselves."""
SLOW_STAGES = frozenset({Stage.PROCESSING, Stage.UNCLAIMED})
"""What takes days is not asked for every few seconds."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}


async def return_page(request: Request) -> Response:
    """GET /activate: the state of the session that `session_id` names, and what the customer can do."""
    services = get_services(request)
    checkout = request.query_params.get("session_id", "")
    headers, code = dict(_HEADERS), 200
    status: CheckoutMessage | None = None
    try:
        status = await find_checkout(request, checkout, ask=_is_looked_at(request))
        shown = await _shown(request, status) if status else Shown("unknown", None, "")
        code = 200 if status else 404
    except (StripeError, StorageUnavailable, TooManyRequests) as error:
        code = 429 if isinstance(error, TooManyRequests) else 503
        headers["Retry-After"] = str(SLOW_REFRESH_S if code == 429 else REFRESH_S[2])
        shown = Shown("unavailable", None, _again(request), int(headers["Retry-After"]))
    page = services.return_page
    html, policy = render(shown, page, page.language(request.query_params.get("lang", "")))
    headers["Content-Security-Policy"] = policy
    return Response(html, code, headers, media_type="text/html")


async def script(request: Request) -> Response:
    """GET /activate.js: the page's script, an ES module."""
    headers = {"Cache-Control": "no-cache", "ETag": SCRIPT_TAG, "X-Content-Type-Options": "nosniff"}
    if SCRIPT_TAG in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(SCRIPT, headers=headers, media_type="text/javascript")


async def _shown(request: Request, status: CheckoutMessage) -> Shown:
    """What the page shows of a session, and where it leads."""
    settings, page = get_services(request).settings, get_services(request).return_page
    with storage_errors():
        address = await read_return_address(status.checkout) or ""
    home = allowed_origin(address, settings.origins)
    if home is None:  # it names none, or one that is not allowed any more
        address, home = page.home, origin_of(page.home)
    state = "reversed" if status.status is InvoiceStatus.REVERSED else str(status.stage)
    if status.processing is not None and status.processing.kind == "voucher":
        state = "voucher"
    return Shown(
        state,
        status,
        _again(request),
        0 if status.terminal else _refresh_s(request, status),
        address if status.status is InvoiceStatus.ACTIVE else "",
        page.home,
        home or "",
    )


def _is_looked_at(request: Request) -> bool:
    """Whether somebody may be waiting for the answer: it is no HEAD, and is not fetched in advance."""
    purposes = (request.headers.get(name, "") for name in ("sec-purpose", "purpose", "x-moz"))
    return request.method == "GET" and not any("prefetch" in purpose for purpose in purposes)


def _refreshes(request: Request) -> int:
    """How often a page without a script has refreshed itself."""
    text = request.query_params.get("n", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0


def _refresh_s(request: Request, status: CheckoutMessage) -> int:
    done = _refreshes(request)
    if done >= MAX_REFRESHES:
        return 0
    slow = status.stage in SLOW_STAGES or done >= len(REFRESH_S)
    return SLOW_REFRESH_S if slow else REFRESH_S[done]


def _again(request: Request) -> str:
    """The page's own address, for the next time."""
    names = ("session_id", "lang")
    query = {name: request.query_params[name][:300] for name in names if name in request.query_params}
    return "?" + urlencode({**query, "n": _refreshes(request) + 1})


ROUTES = [
    Route("/activate", return_page, methods=["GET"]),
    Route("/activate.js", script, methods=["GET"]),
]
