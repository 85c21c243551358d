"""Origins of pages, as settings list them and as browsers send them (RFC 6454).

An origin is `https://host` or `http://host`, with a port where it is not the scheme's own; `*.` in front
of a domain stands for exactly one label, as in a TLS certificate. Apps have schemes of their own, such as
`capacitor://localhost`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
APP_SCHEMES = frozenset(
    {"app", "capacitor", "chrome-extension", "ionic", "moz-extension", "safari-web-extension", "tauri"}
)
"""Schemes whose host identifies the app. Of any other scheme only `localhost` is accepted, since Capacitor
and Tauri let an app choose its scheme."""
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST = re.compile(rf"(?:{LABEL}\.)*{LABEL}\.?|\[[0-9a-f:.]+\]")
APP = re.compile(r"([a-z][a-z0-9+.-]*)://([A-Za-z0-9._-]{1,255})(:\d{1,5})?")
NEVER = frozenset({"about", "blob", "data", "file", "ftp", "javascript", "ws", "wss"})


class Origins:
    """A set of origins. Iterating gives them as they were listed, normalized: wildcards too."""

    def __init__(self, listed: Iterable[str]) -> None:
        self._listed = frozenset(listed)
        wildcards = sorted(origin for origin in self._listed if "://*." in origin)
        self._patterns = [re.compile(re.escape(each).replace(r"\*", LABEL, 1)) for each in wildcards]

    def __contains__(self, origin: object) -> bool:
        """Whether a browser's `Origin` header names one of them. A wildcard itself is no origin."""
        if not isinstance(origin, str) or "*" in origin:
            return False
        return origin in self._listed or any(pattern.fullmatch(origin) for pattern in self._patterns)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._listed))

    def __len__(self) -> int:
        return len(self._listed)

    def example(self) -> str:
        """One origin that is in the set."""
        return next(iter(self)).replace("://*.", "://www.")


@lru_cache(maxsize=64)
def parse_origins(text: str) -> Origins:
    """The origins of a comma-separated list. Raises ValueError, which says what is wrong with which."""
    return Origins(normalized(part.strip()) for part in text.split(",") if part.strip())


def normalized(text: str) -> str:
    """The origin as browsers send it: lower case, without the scheme's own port. Raises ValueError."""
    origin = text.removesuffix("/")
    scheme = origin.partition("://")[0].lower()
    if scheme not in DEFAULT_PORTS:
        return _of_app(text, origin)
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        raise ValueError(f"{_shown(text)} is not an origin such as https://app.example.com") from None
    if parts.username is not None or parts.path or "?" in origin or "#" in origin or not parts.hostname:
        raise ValueError(f"{_shown(text)} is not an origin such as https://app.example.com")
    if not origin.isascii():
        raise ValueError(f"{_shown(text)}: write the domain in its ASCII form, xn--...")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    _check_host(text, host)
    return f"{scheme}://{host}" + ("" if port in (None, DEFAULT_PORTS[scheme]) else f":{port}")


def _check_host(text: str, host: str) -> None:
    domain = host.removeprefix("*.")
    if not HOST.fullmatch(domain):
        raise ValueError(f"{_shown(text)} is not an origin such as https://app.example.com")
    if domain != host and ("." not in domain.strip(".") or domain.rpartition(".")[2].isdecimal()):
        raise ValueError(f"{_shown(text)}: a wildcard needs a domain of yours, such as https://*.example.com")


def _of_app(text: str, origin: str) -> str:
    # Browsers keep the case of these hosts; some hold identifiers in capitals.
    scheme, separator, rest = origin.partition("://")
    found = APP.fullmatch(f"{scheme.lower()}{separator}{rest}")
    if found is None or found[1] in NEVER or (found[1] not in APP_SCHEMES and found[2] != "localhost"):
        raise ValueError(
            f"{_shown(text)} is not an origin such as https://app.example.com or capacitor://localhost"
        )
    return found[0]


def _shown(text: str) -> str:
    """The text without what could be a password."""
    return repr(re.sub(r"//[^/@]*@", "//...@", text)[:100])


def origin_problems(name: str, text: str) -> list[str]:
    """What is wrong with the comma-separated origins of a setting, one line for each."""
    problems = []
    for part in text.split(","):
        try:
            normalized(part.strip() or "http://localhost")
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return problems
