"""Checks the signature of a webhook, and signs the probe of one."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import stripe
from stripe import WebhookSignature

from paidup.errors import WebhookRefused

PROBE_TYPE = "paidup.probe"
"""The type of the event that `paidup stripe-setup` sends to see whether webhooks arrive."""


def sign(body: bytes, secret: str) -> str:
    """The `Stripe-Signature` header of `body`, signed now."""
    return str(WebhookSignature.generate_signature_header(body.decode(), secret))


def verify_signature(body: bytes, header: str | None, secrets: Sequence[str], tolerance_s: int) -> None:
    """Check Stripe's signature of `body` against each secret. Raises WebhookRefused.

    The SDK accepts timestamps in the future; here they are bounded like old ones.
    """
    signed_at = _signed_at(header or "")
    if not any(_fits(body, header or "", secret) for secret in secrets):
        raise WebhookRefused("The signature does not fit the body.")
    if abs(time.time() - signed_at) > tolerance_s:
        raise WebhookRefused("The signature is too old, or its time lies in the future.")


def _fits(body: bytes, header: str, secret: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, header, secret))
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        return False


def _signed_at(header: str) -> int:
    """The time in a `Stripe-Signature` header, which the SDK reads less strictly."""
    times = re.findall(r"(?:\A|,)t=([^,]*)", header)
    if not header.isascii() or len(times) != 1 or not re.fullmatch("[0-9]{1,12}", times[0]):
        raise WebhookRefused("There is no signature, or it is malformed.")
    return int(times[0])
