"""Protects a local server from other websites: only its own pages, under its own host name, are accepted.

Any page can send a POST to the loopback interface (cross-site request forgery), or give its own host name
the address 127.0.0.1 (DNS rebinding). The first has a foreign `Origin`, the second a foreign `Host`. The demo
uses this module as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request

LOOPBACK_NAMES = ("127.0.0.1", "[::1]", "localhost")


def known_hosts(names: Iterable[str], origins: Iterable[str] = ()) -> Middleware:
    """Middleware: 400 for any Host other than this machine, `names`, or those of `origins`."""
    more = {*names, *(urlsplit(origin).hostname or "" for origin in origins)} - {"", "*"}
    allowed = [*LOOPBACK_NAMES, *(f"[{name}]" if ":" in name else name for name in sorted(more))]
    return Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)


def from_another_page(request: Request, allowed: Collection[str]) -> bool:
    """Whether a browser sent this for a page of neither this server nor an `allowed` origin.

    Browsers send `Origin`, or at least `Sec-Fetch-Site` (Fetch standard); other programs send neither. It
    trusts `Host`, so use it behind `known_hosts`.
    """
    if "*" in allowed:
        return False
    origin = request.headers.get("origin")
    if origin is not None:
        return origin not in {f"{request.url.scheme}://{request.headers.get('host')}", *allowed}
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def own_origin(request: Request) -> str:
    """This server's origin, as the caller knows it."""
    return f"{request.url.scheme}://{request.url.netloc}"


def page_headers(*framed_by: str) -> dict[str, str]:
    """Of a page that is never cached. Only `framed_by` may show it in a frame: origins, or "'self'"."""
    framing = " ".join(framed_by) or "'none'"
    return {"Cache-Control": "no-store", "Content-Security-Policy": f"frame-ancestors {framing}"}


def is_loopback(host: str) -> bool:
    """Whether this is a loopback address; False for host names."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
