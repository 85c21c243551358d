"""Logging: levels of own and library loggers, and redaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from paidup.runtime.logs import OWN, configure_logging
from paidup.runtime.tracing import adopt, operation
from tests.support.traces import CLICK, TRACE, collected_spans, trace_of

LIBRARIES = (
    "stripe",
    "aiohttp.client",
    "asyncpg",
    "aiosqlite",
    "tortoise.db_client",
    "asyncio",
    "uvicorn.error",
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restores the process's logging."""
    root, structlogs = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    # A server that another test ran in this process may have configured the libraries' loggers.
    names = ("uvicorn", *LIBRARIES)
    before = {name: vars(logging.getLogger(name)).copy() for name in names}
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.propagate, logger.disabled, logger.handlers, logger.filters = True, False, [], []
    yield
    root.handlers, root.level = handlers, level
    for name in OWN:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name in names:
        logging.getLogger(name).__dict__.update(before[name])
        logging.getLogger(name).setLevel(before[name]["level"])  # which forgets what it has cached
    structlog.configure(**structlogs)


@pytest.mark.parametrize("form", ["console", "json"])
def test_libraries_log_warnings_only_at_any_level(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The Stripe SDK and the database drivers log payloads and values at DEBUG and INFO."""
    configure_logging("DEBUG", form)  # type: ignore[arg-type]
    for name in LIBRARIES:
        logging.getLogger(name).debug("client secret")
        logging.getLogger(name).info("client secret")
        logging.getLogger(name).warning("of %s", name)
    logging.getLogger("paidup.realtime.hub").debug("ours")
    said = capsys.readouterr().err
    assert "client secret" not in said
    assert "ours" in said
    assert [name for name in LIBRARIES if f"of {name}" not in said] == []


def test_faults_of_clients_are_not_logged_as_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused handshakes and invalid UTF-8 are not logged as errors."""
    configure_logging("DEBUG", "console")
    uvicorns = logging.getLogger("uvicorn.error")
    uvicorns.error("ASGI callable returned without completing handshake.")
    uvicorns.error("Invalid UTF-8 sequence received from client.", exc_info=ValueError())
    uvicorns.error("Exception in ASGI application")
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "Exception in ASGI application" in line


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_9a8b7c6d5e",
        "sk_live_51Nabc",
        "rk_test_51Nabc",
        "pi_3Nabc_secret_Xyz",
        "in_1Nabc_secret_Xyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "postgresql://paidup:hunter2@db/paidup",
        "redis://:hunter2@cache:6379/0",
        "unix://paidup:hunter2@/tmp/valkey.sock",
        "Authorization: Bearer hunter2-hunter2",
    ],
)
def test_what_looks_like_a_secret_is_redacted(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "console")
    try:
        raise ValueError(f"it was {secret} there")
    except ValueError:
        logging.getLogger("asyncio").exception("lost")
    said = capsys.readouterr().err
    assert "ValueError: it was" in said
    assert "[redacted]" in said
    assert secret.rpartition(" ")[2] not in said
    assert "hunter2" not in said


async def test_log_lines_name_the_trace_as_soon_as_it_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not before: a line must not begin a trace that the operation then could not join."""
    configure_logging("INFO", "json")
    log = structlog.get_logger("paidup.tests")
    async with collected_spans() as spans:
        with operation("verify"):
            log.info("early")
            adopt(CLICK)
            log.info("late")
        log.info("outside")
    lines = {line["event"]: line for line in map(json.loads, capsys.readouterr().err.splitlines())}
    assert {event: line.get("trace_id") for event, line in lines.items()} == {
        "early": None,
        "late": TRACE,
        "outside": None,
    }
    assert [trace_of(span) for span in spans()] == [TRACE]
