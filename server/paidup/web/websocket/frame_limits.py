"""Limits what a WebSocket client may send: frames, reads and bytes per second.

A browser answers heartbeats and occasionally asks for a verification. A client that sends much more is
closed with 1008 (RFC 6455, 7.4.1) before its frames are handled, so that parsing them does not delay
other connections. The limit is a leaky bucket, stored as one number per socket, without a timer.
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
"""ASGI scope extension: the application calls it to limit its socket."""
BURST_FRAMES = 64
FRAMES_PER_S = 10
FRAME_S = 1 / FRAMES_PER_S
"""The cost of a frame, in seconds of the allowed rate."""
READ_S = FRAME_S / 4
"""The cost of one read from the network, however small."""
BYTE_S = FRAME_S / 256
BURST_S = BURST_FRAMES * FRAME_S
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class FrameLimit(Protocol):
    """A parser that fails the connection with 1008 if the client sends more than the limit."""

    limited = True
    charged_until = 0.0
    """When the cost of everything received so far is used up (monotonic)."""
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
            raise self._refused()  # stops parse(); the rest of the data is discarded
        super().recv_frame(frame)

    def _refused(self) -> ProtocolError:
        reason = "too many frames"
        self.fail(CloseCode.TOO_MUCH, reason)
        return ProtocolError(reason)


class _LimitedServerProtocol(FrameLimit, ServerProtocol):
    """A server's parser, including the handshake. Limited once the application asks for it."""

    limited = False


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket class with the limit, for applications that ask for it."""

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
            # Invalid UTF-8 followed by a close frame: uvicorn closes the connection twice.
            self.transport.abort()
        if not self.handshake_initiated:
            # It was no request to the library, such as one with a body: uvicorn answers nothing then, and
            # would keep the connection for as long as the client does.
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self.transport.close()
        if self.transport.is_closing():
            # A client that does not read would keep the connection open forever.
            self.loop.call_later(self.close_timeout, self.transport.abort)
