"""Limits what a WebSocket client may send: frames, reads and bytes a second.

A browser answers heartbeats and now and then asks for a verification. Whatever sends much more is
closed with 1008 (RFC 6455, 7.4.1) before its frames are handled, so that parsing them never holds up
other connections. The limit is a leaky bucket kept as one number for each socket, without a timer.
"""

from __future__ import annotations

import time
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState, ProtocolError
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import Protocol
from websockets.server import ServerProtocol

from paidup.domain.messages import CloseCode

LIMIT_FRAMES = "paidup.limit_frames"
"""An extension of the ASGI scope: called by the application whose socket is to be limited."""
BURST_FRAMES = 64
FRAMES_PER_S = 10
FRAME_S = 1 / FRAMES_PER_S
"""What a frame costs: the seconds that pay for it."""
READ_S = FRAME_S / 4
"""What one read from the network costs, however little it brings."""
BYTE_S = FRAME_S / 256
BURST_S = BURST_FRAMES * FRAME_S


class FrameLimit(Protocol):
    """A parser that fails the connection with 1008 where the client sends more than the limit."""

    limited = True
    charged_until = 0.0
    """When everything that was received is paid for (monotonic)."""
    _limit = 0.0

    def receive_data(self, data: bytes | bytearray) -> None:
        if not self.limited:
            super().receive_data(data)
            return
        now = time.monotonic()
        self._limit = now + BURST_S
        self.charged_until = max(self.charged_until, now) + READ_S + len(data) * BYTE_S
        if self.charged_until > self._limit:
            self.parser_exc = self._refused()
        else:
            super().receive_data(data)

    def recv_frame(self, frame: Frame) -> None:
        self.charged_until += FRAME_S
        if self.limited and self.charged_until > self._limit:
            raise self._refused()  # parse() stops where it is; the rest of the data is discarded
        super().recv_frame(frame)

    def _refused(self) -> ProtocolError:
        reason = "too many frames"
        self.fail(CloseCode.TOO_MUCH, reason)
        return ProtocolError(reason)


class _LimitedServerProtocol(FrameLimit, ServerProtocol):
    """The same for a connection that begins with the handshake: limited when the application says so."""

    limited = False


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket class with the limit, for the applications that ask for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        made = self.conn
        self.conn = self._parser = _LimitedServerProtocol(
            extensions=made.available_extensions, max_size=self.config.ws_max_size, logger=made.logger
        )

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.handshake_complete:
            cast(dict[str, Any], self.scope["extensions"])[LIMIT_FRAMES] = self._limit

    def _limit(self) -> None:
        self._parser.limited = True

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            self.transport.close()  # RFC 6455, 4.1: a client sends nothing until its handshake is answered
            return
        try:
            super().data_received(data)
        except InvalidState:
            # Text that is no UTF-8, and a close: uvicorn closes what is closing already.
            self.transport.abort()
        if self.transport.is_closing():
            # A client that reads nothing would keep the connection open for ever.
            self.loop.call_later(self.close_timeout, self.transport.abort)
