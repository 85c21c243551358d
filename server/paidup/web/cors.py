"""CORS: which pages of other origins may call the API, and what they may send and read.

WebSockets have no CORS: their handshake checks the origin itself.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from paidup.settings import Settings, split_list

METHODS = ("GET", "POST")
HEADERS = ("Authorization", "Content-Type", "If-None-Match", "Paidup-Ticket", "traceparent")
"""What the browser client sends, and any page that calls the API or traces its requests."""
MAX_AGE_S = 3600


def middleware(settings: Settings) -> Middleware:
    """Answers preflights, and adds the headers by which a browser shows a response to the page."""
    return Middleware(
        CORSMiddleware,
        allow_origins=settings.api_origins,
        allow_methods=METHODS,
        allow_headers=[*HEADERS, *split_list(settings.cors_allowed_headers)],
        allow_credentials=settings.cors_credentials,
        expose_headers=split_list(settings.cors_exposed_headers),
        max_age=MAX_AGE_S,
    )
