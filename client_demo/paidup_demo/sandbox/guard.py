"""Who may drive a program that listens on this machine: its own pages, under its own name.

Any page can have the browser send a POST to the loopback interface (cross-site request forgery), and any
page can give its own host name the address 127.0.0.1 (DNS rebinding). The first shows a foreign `Origin`,
the second a foreign `Host`. The demo uses this as well; it imports nothing of ours.
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
    """Refuse, with 400, requests to another host than this machine, one of `names`, or that of `origins`."""
    more = {*names, *(urlsplit(origin).hostname or "" for origin in origins)} - {"", "*"}
    allowed = [*LOOPBACK_NAMES, *(f"[{name}]" if ":" in name else name for name in sorted(more))]
    return Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)


def from_another_page(request: Request, allowed: Collection[str]) -> bool:
    """Whether a browser sent this on behalf of a page that is neither served here nor of an `allowed` origin.

    A browser says where a request comes from by `Origin`, or at least by `Sec-Fetch-Site` (Fetch standard);
    a program that is no browser says neither. Believes `Host`: only behind `known_hosts`.
    """
    if "*" in allowed:
        return False
    origin = request.headers.get("origin")
    if origin is not None:
        return origin not in {f"{request.url.scheme}://{request.headers.get('host')}", *allowed}
    return request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own. False for anything but an address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
