"""The sandbox's fault conditions: their values and validation. Other modules apply them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from paidup_demo.sandbox.bank_methods import METHOD_TYPES, MethodType
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.settings import MAX_DELAY_MS

Milliseconds = Annotated[int, Meta(ge=0, le=MAX_DELAY_MS)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Version = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}(\.[a-z]+)?$", max_length=40)]


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every condition with its normal value. Times are milliseconds, rates are probabilities from 0 to 1."""

    webhook_delay_ms: Milliseconds = 0
    webhook_jitter_ms: Milliseconds = 0
    webhook_drop: bool | Probability = False
    webhook_drop_types: Annotated[list[str], Meta(max_length=100)] = []
    webhook_duplicates: Annotated[int, Meta(ge=0, le=10)] = 0
    webhook_shuffle: bool = False
    webhook_api_version: Version | None = None
    webhook_retries: Literal["seconds", "hours"] = "seconds"
    account_api_version: Version | None = None
    webhook_account: Annotated[str, Meta(pattern=r"^acct_\w+$", max_length=40)] | None = None
    api_latency_ms: Milliseconds = 0
    api_error_rate: Probability = 0.0
    api_lost_reply_rate: Probability = 0.0
    api_down: bool = False
    rate_limited: bool = False
    locked_ids: Annotated[list[str], Meta(max_length=100)] = []
    rate_limit_per_second: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    rate_limit_in_all: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    read_allocation: bool = False
    affect_browser: bool = False
    invoice_lag_ms: Milliseconds = 0
    processing_ms: Milliseconds = 0
    processing_outcome: Literal["succeeded", "failed"] = "succeeded"
    payment_methods: tuple[MethodType, ...] = METHOD_TYPES
    """What the account has enabled in the dashboard: Stripe's dynamic payment methods."""
    debit_days: Annotated[int, Meta(ge=0, le=30)] | None = None
    """How long a bank debit is processing. None: as long as the method usually takes."""
    checkout_redirect_wait_ms: Milliseconds = 10_000
    """How long the page of a Checkout Session waits for the answer to the webhook."""
    automatic_tax_percent: Annotated[int, Meta(ge=0, le=50)] = 0
    """What automatic tax adds to the prices of a Checkout Session."""
    presentment_currency: Annotated[str, Meta(pattern=r"^[a-z]{3}$")] | None = None
    """The currency that customers pay in, where Stripe's Adaptive Pricing converts the price's."""
    refund_pending: bool = False
    default_currency: Annotated[str, Meta(pattern=r"^[a-z]{3}$")] = "usd"
    retries_end_subscription: Literal["canceled", "unpaid", "past_due"] = "canceled"
    """What becomes of a subscription once all retries of a renewal have failed."""
    retries_end_invoice: Literal["open", "uncollectible"] = "open"

    def as_json(self) -> Json:
        """All conditions, as the control API returns them."""
        return dict(msgspec.to_builtins(self))


class ConditionsError(ValueError):
    """An unknown condition, or a value out of range."""


def changed(current: Conditions, body: bytes) -> Conditions:
    """`current` updated with the JSON object `body`; raises ConditionsError."""
    try:
        update = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ConditionsError(f"not JSON: {error}") from error
    if not isinstance(update, dict):
        raise ConditionsError("a JSON object is expected")
    unknown = sorted(set(update) - set(Conditions.__struct_fields__))
    if unknown:
        raise ConditionsError("unknown conditions: " + ", ".join(map(str, unknown)))
    try:
        return msgspec.convert({**current.as_json(), **update}, Conditions)
    except msgspec.ValidationError as error:
        raise ConditionsError(str(error)) from error
