"""Renders the operators' pages with Jinja2. Everything is escaped, and no page runs a script.

Markup is in the templates only: nothing that a customer, an operator or Stripe wrote is ever marked as safe
(tests/structure/test_operators_templates.py). The content security policy allows the pages' own style, by its
hash, and forms to this server.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from paidup import __version__
from paidup.operations.formatting import format_detail, format_duration
from paidup.operations.recommendations import event_recommendation
from paidup.runtime.clock import now
from paidup.runtime.logs import SECRET
from paidup.web.operators import words
from paidup.web.operators.action_words import changes_of, done_words, undo_of

ROOT = "/operators"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        name: getattr(words, name)
        for name in (
            "number",
            "signed",
            "credits",
            "amount",
            "money",
            "moment",
            "day",
            "ago",
            "until",
            "duration_ms",
        )
    }
    environment.filters |= {
        "words": words.words_of,
        "detail": format_detail,
        "duration": format_duration,
        "advice": event_recommendation,
        "json": pretty_json,
        "redacted": redacted,
    }
    environment.tests["late"] = words.is_late
    environment.globals |= {"version": __version__, "undo_of": undo_of, "changes_of": changes_of}
    environment.globals["done_words"] = done_words
    return environment


def pretty_json(text: str) -> str:
    """JSON with indents, for reading; as it is where it is no JSON."""
    try:
        return msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        return text


def redacted(text: str) -> str:
    """Without what looks like a secret: a payload of Stripe's may have a client secret."""
    return SECRET.sub("[redacted]", text)


_PAGES = _environment()
_STYLE_HASH = base64.b64encode(
    hashlib.sha256(_PAGES.get_template("style.css").render().encode()).digest()
).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    # Not no-referrer: then a browser's POST would name no origin, which is checked.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept, Cookie",
}


def address(request: Request, *path: object, **query: object) -> str:
    """A page's address on this server, below the prefix under which it is mounted."""
    parts = "".join(f"/{quote(str(part), safe='')}" for part in path)
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{request.scope.get('root_path', '')}{ROOT}{parts}{'?' if given else ''}{urlencode(given)}"


def render(request: Request, template: str, view: dict[str, Any], status: int = 200) -> Response:
    """The page that `template` makes of `view`."""

    def url(*path: object, **query: object) -> str:
        return address(request, *path, **query)

    given = {"operator": None, "form_token": "", "here": "", "at": now(), **view, "url": url}
    return Response(_PAGES.get_template(template).render(given), status, HEADERS, media_type="text/html")
