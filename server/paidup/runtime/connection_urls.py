"""URLs of databases and of Redis: shown without their passwords, and checked for cut-off passwords."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]")


def without_password(urls: str) -> str:
    """Comma-separated URLs without users, passwords and options, for messages: `redis://h:6379/0`."""
    return ",".join(_shown(url.strip()) for url in urls.split(","))


def _shown(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    place = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}{separator}{place}"


def names_a_host(url: str) -> bool:
    """Whether a URL's host is one. Any of `#`, `/` and `?` in a password ends the host before its time."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = parts.netloc.rpartition("@")[2]
    if port is not None:
        host = host.rpartition(":")[0]
    cut_off = parts.fragment or "@" in parts.path or "@" in parts.query
    return not cut_off and (host == "" or _HOST.fullmatch(host) is not None)
