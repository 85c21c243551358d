"""Logging: structlog and the standard library, in one format.

No secret is logged at any level. LOG_LEVEL applies to Paidup's own loggers. Libraries log warnings and
errors only: below that, the Stripe SDK logs whole responses with client secrets, and database drivers
log values. In addition, anything that looks like a secret is redacted in every line, and the id of a
Checkout Session, which is the permission to see its status, is shortened to what is needed to find it.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Literal

import structlog

from paidup.runtime import tracing

OWN = ("paidup", "paidup_demo")
SECRET = re.compile(
    r"whsec_\S+|\b[rs]k_(?:test|live)_\w+"  # Stripe's keys
    r"|\b\w+_secret_\w+"  # client secrets
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*"  # JWTs
    r"|(?<=://)[^/\s@]*:[^\s@]*@"  # the user and the password in an address
    r"|(?<=Bearer )[\w.~+/=-]{8,}|(?<=Basic )[\w+/=]{8,}"  # Authorization
)
SESSION = re.compile(r"\b(cs(?:_|%5F)(?:test|live)(?:_|%5F)[a-z0-9]{12})[a-z0-9]+", re.IGNORECASE)
"""The id of a Checkout Session, also as a path may have it."""
CLIENTS_FAULTS = frozenset(
    {
        "ASGI callable returned without completing handshake.",  # after every handshake refused by HTTP
        "Invalid UTF-8 sequence received from client.",
    }
)
"""Errors of clients that uvicorn's WebSocket class logs as its own: clients could fill the logs."""


def configure_logging(level: str, form: Literal["console", "json"]) -> None:
    """Log to standard error at `level`, for people (console) or machines (json)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Redacting(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=level if level == "ERROR" else "WARNING", handlers=[handler], force=True)
    for name in OWN:
        logging.getLogger(name).setLevel(level)
    logging.getLogger("uvicorn.error").addFilter(_is_ours)


def _add_trace(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The trace that the line belongs to, if that is known."""
    if trace := tracing.current_trace():
        event["trace_id"] = trace
    return event


def _is_ours(record: logging.LogRecord) -> bool:
    return record.msg not in CLIENTS_FAULTS


class _Redacting(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return SESSION.sub(r"\1...", SECRET.sub("[redacted]", super().format(record)))
