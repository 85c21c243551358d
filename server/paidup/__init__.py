"""Turns a confirmed Stripe payment into usable plan credits, exactly once, and tells the waiting browser.

`__all__` is the public surface; everything else may change in any release.

- For your backend (`pip install paidup`): `Paidup`, `AsyncPaidup`, the tokens that they send, and
  the errors that they raise. `paidup.client` has the types of their results as well.
- To mount the server in your own application (`pip install 'paidup[server]'`): `create_app`,
  `Settings`, `Customer`, `running` and `InProcess`, which has the client's methods and errors.

Names are imported on first use (PEP 562), so the client needs none of the server's dependencies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paidup import client, errors
    from paidup.app import create_app
    from paidup.client import (
        APIConnectionError,
        APIError,
        APIStatusError,
        AsyncPaidup,
        InsufficientCreditsError,
        Paidup,
        backend_token,
        page_token,
        signed_with,
    )
    from paidup.mounting import InProcess, running
    from paidup.settings import Settings
    from paidup.web.auth import Customer

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "AsyncPaidup",
    "Customer",
    "InProcess",
    "InsufficientCreditsError",
    "Paidup",
    "Settings",
    "backend_token",
    "client",
    "create_app",
    "errors",
    "page_token",
    "running",
    "signed_with",
]
__version__ = "0.2.0"

_SERVER = {
    "Customer": "paidup.web.auth",
    "InProcess": "paidup.mounting",
    "Settings": "paidup.settings",
    "create_app": "paidup.app",
    "running": "paidup.mounting",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("client", "errors"):
        return import_module(f"{__name__}.{name}")
    try:
        value = getattr(import_module(_SERVER.get(name, "paidup.client")), name)
    except ModuleNotFoundError as error:
        if name not in _SERVER or (error.name or "").startswith("paidup"):
            raise
        raise ImportError(f"paidup.{name} needs the server: pip install 'paidup[server]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
