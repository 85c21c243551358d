"""Which addresses an endpoint for events may have, as far as its URL shows. No I/O.

What its host name leads to is checked when a delivery connects: a name may lead elsewhere by then.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

MAX_LENGTH = 2000
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_INSIDE = (".localhost", ".local", ".internal", ".localdomain")


def url_problem(url: str, private_allowed: bool) -> str | None:
    """Why no events are sent to this URL, in one line, or None. It never repeats the URL's user or path.

    `private_allowed`: also plain HTTP, and addresses of the network that the server is in.
    """
    if len(url) > MAX_LENGTH:
        return f"The URL is longer than {MAX_LENGTH} characters."
    if not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>'):
        return "The URL has characters that a URL cannot have: write them as %XX, and the host in ASCII."
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "The URL is not valid: its host or port cannot be read."
    if not host or parts.scheme not in ("https", "http"):
        return "The URL is not valid: give one such as https://app.example.com/hooks/paidup."
    return _refused(parts, host, private_allowed)


def without_secrets(url: str) -> str:
    """A valid URL without its user, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def name_of(url: str, number: int) -> str:
    """What a message calls an address of the settings, which may be wrong: never by a secret."""
    return without_secrets(url) if _is_readable(url) else f"address {number}"


def _is_readable(url: str) -> bool:
    """Whether it is known which part of it is what, and is one line."""
    try:
        parts = urlsplit(url)
        has_host = parts.scheme in ("https", "http") and parts.hostname and (parts.port or 1)
        return bool(has_host and url.isprintable())
    except ValueError:
        return False


def _refused(parts: SplitResult, host: str, private_allowed: bool) -> str | None:
    if "@" in parts.netloc:
        return "The URL names a user: the signature says who sent an event, so leave the user out."
    if parts.fragment:
        return "The URL has a fragment (#...), which is never sent: leave it out."
    if private_allowed:
        return None
    if parts.scheme != "https":
        return "The URL is not HTTPS. EVENT_PRIVATE_ADDRESSES=allow takes http:// for development."
    if is_inside(host):
        return (
            f"{host} is an address of this network, to which no events are sent. "
            "EVENT_PRIVATE_ADDRESSES=allow sends them, for development or inside a cluster."
        )
    return None


def is_inside(host: str) -> bool:
    """Whether the host is an address, or a name, that only the server's own network knows."""
    try:
        return is_inside_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        # `127.1`, `0x7f000001` and `2130706433` are addresses to a resolver.
        return "." not in name or name.endswith(_INSIDE) or _is_number(name.rpartition(".")[2])


def is_inside_address(host: str) -> bool:
    """The same for an IP address, as a resolver gives it. Raises ValueError where it is none."""
    address = ipaddress.ip_address(host.partition("%")[0])
    inner = _embedded(address) if isinstance(address, ipaddress.IPv6Address) else None
    if inner is not None:
        return is_inside_address(str(inner))
    return not address.is_global or address.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one reach, where IPv6 is only how it is written."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _is_number(label: str) -> bool:
    return label.isdecimal() or label.startswith("0x")
