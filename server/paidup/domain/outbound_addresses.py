"""Which addresses outbound events may be sent to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

NAT64 = ip_network("64:ff9b::/96")
SIX_TO_FOUR = ip_network("2002::/16")
MAX_URL = 2000


def is_public(address: str) -> bool:
    """Whether anybody on the internet may reach this IP address, and it is of one host."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = _embedded(found)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one reach, where it is only written as IPv6."""
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour if address in SIX_TO_FOUR else None


def url_problem(url: str, private: bool) -> str | None:
    """Why events cannot be sent to `url`, or None. `private`: http and private addresses are allowed."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in (("http", "https") if private else ("https",)) or not host:
        return "it is not a URL such as https://app.example.com/hooks/paidup"
    if parts.username is not None or parts.password is not None:
        return "a user name or a password in it would be shown with it: verify the signature instead"
    if parts.fragment or len(url) > MAX_URL or not url.isprintable() or " " in url:
        return f"it has a fragment, a space, or more than {MAX_URL} characters"
    if not private and _is_private_literal(host):
        return f"{host} is a private address: EVENT_PRIVATE_ADDRESSES=allow permits those"
    return None


def _is_private_literal(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
