"""Where a customer may be sent on to: an address of a page whose origin is allowed, and nowhere else.

An address counts only as browsers write it (https://url.spec.whatwg.org/#url-serializing): its origin
is compared as text, so that nothing which a browser reads in another way than this module passes.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from paidup.domain.origins import Origins, normalized

MAX_LENGTH = 2000
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://[^/?#\\@\s]+)([/?#][^\\\s]*)?")
"""The origin, without a user or a password; and the rest. Browsers take a backslash for a slash."""


def origin_of(address: str) -> str | None:
    """The origin of the address, if it is well-formed and an origin that settings can list; else None."""
    found = _ADDRESS.fullmatch(address)
    if found is None or len(address) > MAX_LENGTH or not address.isprintable():
        return None
    origin = found[1]
    try:
        return origin if normalized(origin) == origin else None
    except ValueError:
        return None


def allowed_origin(address: str, origins: Origins) -> str | None:
    """The origin of the address, if it is one of `origins`; else None."""
    origin = origin_of(address)
    return origin if origin in origins else None


def resolved(return_to: str, origins: Origins, page: str | None) -> str | None:
    """`return_to` as an absolute address, with its origin as browsers write it, if it is in `origins`.

    A path (`/welcome`) is one of the page that asks, whose origin is `page`. What browsers would read as
    another address is refused: `//host`, backslashes, control characters, a user's name.
    """
    if len(return_to) > MAX_LENGTH or not _is_plain(return_to):
        return None
    if return_to.startswith("/"):
        usable = not return_to.startswith("//") and page is not None and page in origins
        address = f"{page}{return_to}"
        return address if usable and len(address) <= MAX_LENGTH else None
    try:
        parts = urlsplit(return_to)
        origin = normalized(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        return None
    rest = return_to[len(parts.scheme) + len("://") + len(parts.netloc) :]
    return f"{origin}{rest}" if origin in origins else None


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and not set(text) & set(' \\"<>')
