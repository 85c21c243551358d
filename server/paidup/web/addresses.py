"""Client addresses as limits count them: by what one party has little of."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

LONGEST = 45
"""An IPv6 address is never longer, RFC 4291 section 2.2."""
SUBNET_BITS = 64
"""What one subscriber line gets at least, RFC 6177: whoever has one IPv6 address has 2**64."""


@lru_cache(maxsize=4096)
def counted_as(host: str) -> str:
    """What a limit per address counts for the peer `host`.

    An IPv4 address is itself, also where it is mapped into IPv6; any other IPv6 address is its
    /64. What is no address (the peer of a Unix socket, a broken proxy's header) is counted as "".
    """
    try:
        # On a link-local address the peer may name a scope; it tells nobody apart.
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
