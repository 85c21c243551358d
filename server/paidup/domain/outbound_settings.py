"""The settings of outbound events, a part of `Settings`: where they are sent, and how long they are kept."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

import msgspec

from paidup.domain.endpoint_urls import name_of, url_problem
from paidup.domain.operator_settings import OperatorSettings

SECRET_PREFIX = "whsec_"  # noqa: S105
MIN_BYTES, MAX_BYTES = 24, 64
"""What Standard Webhooks allows for a secret."""


class OutboundSettings(OperatorSettings, frozen=True, kw_only=True, rename=str.upper):
    """`event_secret` is of all `event_endpoints`; two, while one replaces the other."""

    event_endpoints: str = ""
    event_secret: str = ""
    event_private_addresses: Literal["refuse", "allow"] = "refuse"
    event_endpoint_disable_after_h: Annotated[int, msgspec.Meta(ge=1, le=8760)] = 120
    outbound_events_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] = 30

    @property
    def allows_private_addresses(self) -> bool:
        return self.event_private_addresses == "allow"


def parts(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def secret_problem(secret: str) -> str | None:
    """What is wrong with a secret that somebody gave, in words that do not show it; or None."""
    if not secret.startswith(SECRET_PREFIX):
        return f"a secret begins with {SECRET_PREFIX}, followed by base64"
    try:
        size = len(base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True))
    except binascii.Error:
        return f"what follows {SECRET_PREFIX} is not base64"
    if not MIN_BYTES <= size <= MAX_BYTES:
        return f"a secret has {MIN_BYTES} to {MAX_BYTES} bytes; this one has {size}"
    return None


def outbound_problems(settings: OutboundSettings) -> list[str]:
    """What is wrong with the endpoints and secrets of the settings. Never shows a secret."""
    urls, secrets = parts(settings.event_endpoints), parts(settings.event_secret)
    private = settings.allows_private_addresses
    problems = [
        f"EVENT_ENDPOINTS: {name_of(url, number)}: {fault}"
        for number, url in enumerate(urls, start=1)
        if (fault := url_problem(url, private))
    ]
    problems += [f"EVENT_SECRET: {fault}" for each in secrets if (fault := secret_problem(each))]
    if urls and not secrets:
        problems.append("EVENT_ENDPOINTS without EVENT_SECRET: docs/events.md shows how to make one")
    if len(secrets) > 2:
        problems.append("EVENT_SECRET has one secret, or two while one replaces the other")
    return problems
