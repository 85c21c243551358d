"""HTTP sessions to Stripe and to the identity provider: through which proxy, and which CAs are trusted.

HTTPS_PROXY and NO_PROXY mean what they mean to curl. aiohttp's own `trust_env` is not used: it would
also send what ~/.netrc holds, and read that file for each request.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

if TYPE_CHECKING:
    import aiohttp

READ_BY_OTHERS = frozenset(
    {"ALL_PROXY", "HTTP_PROXY", "NIX_SSL_CERT_FILE", "SSL_CERT_DIR", "all_proxy", "http_proxy", "https_proxy"}
    | {"no_proxy"}
)
"""Names in an environment that resemble our settings and are no mistake."""


@dataclass(frozen=True)
class Outgoing:
    """How https URLs are reached. Plain http is never proxied: it is for this machine and for tests."""

    https_proxy: str = ""
    no_proxy: str = ""
    ca_file: str = ""

    def proxy_for(self, url: str) -> str | None:
        """The proxy for `url`, or None to connect directly."""
        parts = urlsplit(url)
        if not self.https_proxy or parts.scheme != "https":
            return None
        if proxy_bypass_environment(parts.netloc.rpartition("@")[2], {"no": self.no_proxy}):
            return None
        return self.https_proxy if "://" in self.https_proxy else f"http://{self.https_proxy}"

    def session(self, url: str, keepalive_s: float = 15.0, **options: Any) -> aiohttp.ClientSession:
        """A session for the requests to the host of `url`. Raises OSError if the CA file cannot be read."""
        import aiohttp  # noqa: PLC0415 (it takes long, and each command reads the settings)

        connector = aiohttp.TCPConnector(keepalive_timeout=keepalive_s, limit=50, ssl=self.tls())
        return aiohttp.ClientSession(connector=connector, proxy=self.proxy_for(url), **options)

    def tls(self) -> ssl.SSLContext | bool:
        """What aiohttp verifies certificates by. Raises OSError if the CA file cannot be read."""
        return _trusting(self.ca_file, _changed_at(self.ca_file)) if self.ca_file else True

    def problems(self) -> list[str]:
        """What is wrong with the settings. Never shows the proxy's address: it may hold a password."""
        found = []
        try:
            proxy = urlsplit(self.proxy_for("https://api.stripe.com") or "http://proxy")
            if proxy.scheme not in ("http", "https") or not proxy.hostname or (proxy.port or 1) < 0:
                raise ValueError
        except ValueError:
            found.append("HTTPS_PROXY is not the URL of an HTTP proxy, such as http://proxy.internal:3128")
        if self.ca_file:
            try:
                self.tls()
            except OSError as error:  # SSLError is one
                why = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
                found.append(f"SSL_CERT_FILE: {self.ca_file} cannot be used: {why}")
        return found


DIRECT = Outgoing()


@lru_cache(maxsize=4)
def _trusting(ca_file: str, _changed_at_ns: int) -> ssl.SSLContext:
    """One context for all sessions of a process: to read the CAs of a system takes 30 ms."""
    return ssl.create_default_context(cafile=ca_file)


def _changed_at(file: str) -> int:
    return os.stat(file).st_mtime_ns


def without_password(text: str) -> str:
    """The text without user names and passwords in URLs: aiohttp's errors show the proxy's."""
    return re.sub(r"//[^/\s@]*@", "//", text)
