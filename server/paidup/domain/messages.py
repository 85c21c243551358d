"""What a browser is told: the frames of the `paidup.v1` subprotocol, and its close codes.

Owns the words on the wire; docs/protocol.md describes them. One frame is one JSON object.
Refuses to know how a frame is sent or to whom.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Literal

import msgspec

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import PaymentError, Source

SUBPROTOCOL = "paidup.v1"
MAX_FRAME = 4096
"""Bytes that a browser may send at once: it has nothing longer to say than {"type":"verify"}."""


class Stage(StrEnum):
    """Finer than the status, for the screen."""

    WAITING = "waiting"
    VERIFYING = "verifying"
    ACTION_REQUIRED = "action_required"
    PROCESSING = "processing"
    DELAYED = "delayed"
    ACTIVE = "active"
    FAILED = "failed"
    VOID = "void"


_STAGES = {
    InvoiceStatus.OPEN: Stage.WAITING,
    InvoiceStatus.REQUIRES_ACTION: Stage.ACTION_REQUIRED,
    InvoiceStatus.PROCESSING: Stage.PROCESSING,
    InvoiceStatus.ACTIVE: Stage.ACTIVE,
    InvoiceStatus.FAILED: Stage.FAILED,
    InvoiceStatus.VOID: Stage.VOID,
    InvoiceStatus.REVERSED: Stage.VOID,
}


class CloseCode(IntEnum):
    """Why the server closed the socket."""

    FINISHED = 1000  # said of an invoice alone: an account's line never finishes
    TOO_MUCH = 1008  # the client sends more than it may
    RESTARTING = 1012
    TRY_LATER = 1013
    WAITED_TOO_LONG = 4408


class StatusMessage(msgspec.Struct, frozen=True, tag_field="type", tag="status"):
    """The state of one invoice. `version` only grows; a terminal `status` ends the wait.

    `via` is the road that settled, None before; `at` is when the status last changed, UTC.
    """

    invoice: str
    version: int
    status: InvoiceStatus
    stage: Stage
    plan: str | None
    credits_granted: int
    balance: int
    via: Source | None
    at: datetime
    error: PaymentError | None = None

    @property
    def terminal(self) -> bool:
        return self.status.terminal


class BalanceMessage(msgspec.Struct, frozen=True, tag_field="type", tag="balance"):
    """What an account has now. `version` only grows; below zero, `balance` is a debt.

    `at` is when the row was read, UTC.
    """

    version: int
    balance: int
    at: datetime


class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """Nothing happened, and the line is alive."""


class Bye(msgspec.Struct, frozen=True, tag_field="type", tag="bye"):
    """The server is about to close; come back after this many milliseconds."""

    reason: str
    reconnect_after_ms: int


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one thing that a browser may say: please ask Stripe again now."""

    type: Literal["verify"]  # a tag may be missing where it is the only one: `{}` would pass


Frame = StatusMessage | BalanceMessage | Heartbeat | Bye

_encoder = msgspec.json.Encoder()
_status_decoder = msgspec.json.Decoder(StatusMessage)
_balance_decoder = msgspec.json.Decoder(BalanceMessage)
_verify_decoder = msgspec.json.Decoder(Verify)


def stage_of(status: InvoiceStatus) -> Stage:
    return _STAGES[status]


def encode(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def decode_status(data: bytes | str) -> StatusMessage:
    """Raises msgspec.DecodeError where `data` is no status frame."""
    return _status_decoder.decode(data)


def decode_balance(data: bytes | str) -> BalanceMessage:
    """Raises msgspec.DecodeError where `data` is no balance frame."""
    return _balance_decoder.decode(data)


def is_verify(text: str) -> bool:
    """Whether a browser's frame asks for a verification; anything else is ignored."""
    try:
        _verify_decoder.decode(text)
    except msgspec.DecodeError:
        return False
    return True
