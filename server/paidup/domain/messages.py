"""The messages of the `paidup.v1` subprotocol and its close codes, described in docs/protocol.md.

Each frame is one JSON object. Sending frames is not done here.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Literal

import msgspec

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.delayed_methods import ProcessingPayment
from paidup.domain.payment_facts import PaymentError, Source
from paidup.domain.stages import Stage

SUBPROTOCOL = "paidup.v1"
MAX_FRAME = 4096
"""The largest frame, in bytes, that a browser may send. Its longest message is {"type":"verify"}."""


class CloseCode(IntEnum):
    """Why the server closed the socket."""

    FINISHED = 1000  # invoice sessions only: an account session never finishes
    TOO_MUCH = 1008  # the client exceeded its limits
    RESTARTING = 1012
    TRY_LATER = 1013
    WAITED_TOO_LONG = 4408


class StatusMessage(msgspec.Struct, frozen=True, tag_field="type", tag="status"):
    """The state of one invoice. `version` only grows; a terminal `status` is final.

    `via` is the source that settled it, None before; `at` is when the status last changed, UTC. `checkout`
    is the Checkout Session that it came from. `processing` is of a bank debit that takes days, while its
    status is `processing`.
    `replaced_by`, of a void one: the invoice that the customer has paid since instead, in another tab.
    `traceparent`: where the trace of its purchase began, if it is traced (W3C Trace Context).
    `units_granted`: what it has granted of other units than the default one, by unit; absent if nothing.
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
    checkout: str | None = None
    processing: ProcessingPayment | None = None
    replaced_by: str | None = None
    traceparent: str | msgspec.UnsetType = msgspec.UNSET
    units_granted: dict[str, int] | msgspec.UnsetType = msgspec.UNSET

    @property
    def terminal(self) -> bool:
        return self.status.terminal

    @property
    def settled(self) -> bool:
        """Whether nothing is left to ask Stripe."""
        return self.terminal or self.stage is Stage.PROVISIONING

    @property
    def credited(self) -> bool:
        """Whether its credits are there, whatever browsers are told yet."""
        return self.status is InvoiceStatus.ACTIVE or self.stage is Stage.PROVISIONING


class CheckoutMessage(msgspec.Struct, frozen=True, tag_field="type", tag="status"):
    """The state of one Checkout Session, for those who know its id: nothing of its account but its credits.

    `version`, `via`, `at`, `processing` and `units_granted` as in a StatusMessage. `return_to`: where the
    customer goes on once it is active.
    """

    checkout: str
    version: int
    status: InvoiceStatus
    stage: Stage
    plan: str | None
    credits_granted: int
    via: Source | None
    at: datetime
    error: PaymentError | None = None
    processing: ProcessingPayment | None = None
    return_to: str | None = None
    units_granted: dict[str, int] | msgspec.UnsetType = msgspec.UNSET

    @property
    def terminal(self) -> bool:
        return self.status.terminal

    @property
    def settled(self) -> bool:
        """Whether nothing is left to ask Stripe."""
        return self.terminal or self.stage is Stage.PROVISIONING


class UnitBalance(msgspec.Struct, frozen=True):
    """The balance of another unit than the default one."""

    balance: int
    held: int


class BalanceMessage(msgspec.Struct, frozen=True, tag_field="type", tag="balance"):
    """An account's balance. `version` only grows; a negative `balance` is a debt.

    `at` is when the row was read, UTC. `held` credits are reserved: they are not in `balance`, and not spent.
    `units`: the same of other units than the default one; absent where the account never had any of these.
    """

    version: int
    balance: int
    at: datetime
    held: int = 0
    units: dict[str, UnitBalance] | msgspec.UnsetType = msgspec.UNSET


class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """Keeps an idle connection alive."""


class Bye(msgspec.Struct, frozen=True, tag_field="type", tag="bye"):
    """The server is about to close; reconnect after this many milliseconds."""

    reason: str
    reconnect_after_ms: int


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The only client message: verify the invoice with Stripe now."""

    type: Literal["verify"]  # a struct tag would be optional here: `{}` would pass


Frame = StatusMessage | CheckoutMessage | BalanceMessage | Heartbeat | Bye

_encoder = msgspec.json.Encoder()
_status_decoder = msgspec.json.Decoder(StatusMessage)
_checkout_decoder = msgspec.json.Decoder(CheckoutMessage)
_balance_decoder = msgspec.json.Decoder(BalanceMessage)
_verify_decoder = msgspec.json.Decoder(Verify)


def encode(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def decode_status(data: bytes | str) -> StatusMessage:
    """Raises msgspec.DecodeError if `data` is not a status frame."""
    return _status_decoder.decode(data)


def decode_checkout(data: bytes | str) -> CheckoutMessage:
    """Raises msgspec.DecodeError if `data` is not a status frame of a Checkout Session."""
    return _checkout_decoder.decode(data)


def decode_balance(data: bytes | str) -> BalanceMessage:
    """Raises msgspec.DecodeError if `data` is not a balance frame."""
    return _balance_decoder.decode(data)


def is_verify(text: str) -> bool:
    """Whether a client frame is a verify message; anything else is ignored."""
    try:
        _verify_decoder.decode(text)
    except msgspec.DecodeError:
        return False
    return True
