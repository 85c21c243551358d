"""Client addresses as rate and connection limits count them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

LONGEST = 45
"""The maximum length of an IPv6 address in text, RFC 4291 section 2.2."""
SUBNET_BITS = 64
"""The smallest IPv6 prefix that a subscriber gets, RFC 6177: one client can use 2**64 addresses."""


@lru_cache(maxsize=4096)
def address_key(host: str) -> str:
    """The key under which a limit per address counts the peer `host`.

    An IPv4 address counts as itself, also if it is mapped into IPv6; an IPv6 address as its /64.
    Anything else (the peer of a Unix socket, a malformed proxy header) counts as "".
    """
    try:
        # A link-local address may carry a scope, which does not identify the client.
        address = ip_address(host.partition("%")[0]) if len(host) <= 2 * LONGEST else None
    except ValueError:
        address = None
    if isinstance(address, IPv6Address):
        return _ipv6(address)
    return str(address) if isinstance(address, IPv4Address) else ""


def _ipv6(address: IPv6Address) -> str:
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, SUBNET_BITS), strict=False))
