"""Checks the address of each connection that is made for an event: no name can lead to a private one."""

from __future__ import annotations

import socket
from typing import Any

from paidup.domain.endpoint_urls import is_inside_address


class PrivateAddress(OSError):
    """A connection to an address that only this network can reach was refused."""


def public_socket(address: Any) -> socket.socket:
    """A socket for aiohttp's connector to connect to `address`. Raises PrivateAddress."""
    family, kind, protocol, _, target = address
    if is_inside_address(target[0]):
        raise PrivateAddress(f"{target[0]} is a private address (EVENT_PRIVATE_ADDRESSES)")
    return socket.socket(family=family, type=kind, proto=protocol)
