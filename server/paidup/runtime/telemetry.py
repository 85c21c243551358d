"""Turns tracing on, where the settings name an endpoint and `paidup[otel]` is installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from paidup.runtime.tracing import Destination, exporting

log = structlog.get_logger(__name__)


@asynccontextmanager
async def tracing(to: Destination) -> AsyncIterator[None]:
    """Trace for the length of the block, if there is an endpoint and `paidup[otel]` is installed."""
    if not to.endpoint:
        yield
        return
    try:
        from paidup.runtime.spans import otlp_exporter  # noqa: PLC0415 (an extra, and slow to import)
    except ImportError:  # a platform may set the endpoint for all that it runs
        log.warning("not_traced", problem="OTEL_EXPORTER_OTLP_ENDPOINT is set: pip install 'paidup[otel]'")
        yield
        return
    async with otlp_exporter(to) as exporter:
        with exporting(exporter):
            yield
