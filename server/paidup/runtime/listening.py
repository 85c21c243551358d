"""Whether an address can be listened on, before anything is started that would listen there."""

from __future__ import annotations

import errno
import socket


def listening_problem(host: str, port: int, host_name: str = "HOST", port_name: str = "PORT") -> str | None:
    """Why nothing can listen there, naming the setting and the remedy, or None."""
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:
        addresses = socket.getaddrinfo(host, port, type=kind, flags=flags)
    except (OSError, UnicodeError):
        return _not_ours(host, host_name)
    for family, _, _, _, address in addresses:
        if error := _refusal(family, address):
            if error == errno.EADDRINUSE:
                return (
                    f"{port_name}: {host}:{port} is in use by another program: "
                    f"stop it, or set {port_name} to a free port"
                )
            if error == errno.EACCES:
                return (
                    f"{port_name}: this user may not listen on port {port}: set {port_name} to 1024 or more"
                )
            return _not_ours(host, host_name)
    return None


def _refusal(family: int, address: tuple[object, ...]) -> int | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno
    return None


def _not_ours(host: str, name: str) -> str:
    return (
        f"{name}: {host!r} is not an address of this machine: unset {name} (some shells set it), or use "
        "127.0.0.1, or 0.0.0.0 for all addresses"
    )
