"""Fixtures of the scenarios."""

from __future__ import annotations

import pytest

from paidup.web.websocket import endpoint, lightweight_protocol, session, transport
from tests.support.session_clock import SessionClock


@pytest.fixture
def session_clock(monkeypatch: pytest.MonkeyPatch) -> SessionClock:
    """A clock for WebSocket sessions, which are then checked every 20 ms."""
    clock = SessionClock()
    for module in (endpoint, lightweight_protocol, session, transport):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(endpoint, "TICK_S", 0.02)
    return clock
