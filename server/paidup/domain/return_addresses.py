"""Where a customer goes on to after the payment: an address of a page that is allowed, or none."""

from __future__ import annotations

from urllib.parse import urlsplit

from paidup.domain.origins import Origins, normalized

MAX_LENGTH = 2000


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
