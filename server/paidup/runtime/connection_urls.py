"""URLs of databases and of Redis: shown without their passwords, and checked for cut-off passwords."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from paidup.errors import ConfigurationError
from paidup.runtime.postgres_address import parse_address

_NEXT_URL = re.compile(r",\s*(?=[a-z]+://)")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]")


def without_password(urls: str) -> str:
    """Comma-separated URLs without users, passwords and options, for messages: `redis://h:6379/0`."""
    return ",".join(map(_shown, _NEXT_URL.split(urls)))


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


def can_be_parsed(url: str) -> bool:
    """Whether libraries can parse it: their error would show a part of the password."""
    try:
        return (urlsplit(url).port or 0) >= 0
    except ValueError:
        return False


def database_problems(url: str) -> list[str]:
    """Whether DATABASE_URL names a file of SQLite or a PostgreSQL, with options that are known."""
    if not url or url.startswith("sqlite://"):
        return []
    if not url.startswith(("postgres://", "postgresql://")):
        return ["DATABASE_URL starts with sqlite:// or postgresql://"]
    try:
        parse_address(url)
    except ConfigurationError as error:
        return error.problems
    return []


def redis_problems(urls: str, cluster: bool) -> list[str]:
    """Whether REDIS_URL has the scheme of a Redis, or lists nodes of a cluster."""
    schemes = ("redis://", "rediss://")
    if cluster:
        nodes = [url.strip() for url in urls.split(",") if url.strip()]
        if not nodes or not all(node.startswith(schemes) for node in nodes):
            return ["REDIS_CLUSTER: REDIS_URL lists one or more of its nodes, redis://... or rediss://..."]
    elif urls and not urls.startswith((*schemes, "unix://")):
        return ["REDIS_URL starts with redis://, rediss:// or unix://"]
    return []
