"""Signs requests as Standard Webhooks (https://www.standardwebhooks.com), by its own library."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from standardwebhooks.webhooks import Webhook


def signed_headers(message: str, at: datetime, body: bytes, with_secrets: Sequence[str]) -> dict[str, str]:
    """The headers of a request; with two secrets, two signatures, while one replaces the other."""
    text = body.decode()
    signatures = [Webhook(secret).sign(message, at, text) for secret in with_secrets]
    return {
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
