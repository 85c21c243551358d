"""Sends a signed event to a webhook address, to see that Paidup answers there with the same secret.

Paidup answers it as it answers Stripe, and stores nothing.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp
import msgspec

from paidup.operations.stripe_setup import WEBHOOK_PATH
from paidup.runtime.outgoing import DIRECT, Outgoing, without_password
from paidup.stripe_api.webhook_signatures import PROBE_TYPE, sign

TIMEOUT_S = 10.0


async def endpoint_notes(url: str, secret: str, livemode: bool, outgoing: Outgoing = DIRECT) -> list[str]:
    """One line for each thing that is to be done before webhooks arrive at this address."""
    notes = []
    if not urlsplit(url).path.endswith(WEBHOOK_PATH):
        notes.append(f"the path is not Paidup's, which is {WEBHOOK_PATH}: is it passed on to there?")
    if problem := await _probe(url, secret, livemode, outgoing):
        notes.append(problem)
    return notes


async def _probe(url: str, secret: str, livemode: bool, outgoing: Outgoing) -> str | None:
    event = {"id": "evt_probe", "object": "event", "type": PROBE_TYPE, "livemode": livemode}
    body = msgspec.json.encode({**event, "data": {"object": {"id": "probe", "object": "probe"}}})
    headers = {"Stripe-Signature": sign(body, secret), "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            outgoing.session(url, timeout=timeout) as http,
            http.post(url, data=body, headers=headers, allow_redirects=False) as response,  # as Stripe
        ):
            return _judge(response.status, response.content_type)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        told = without_password(str(error)) or type(error).__name__
        return f"it does not answer ({told}): start Paidup there, then run this again"


def _judge(status: int, media_type: str) -> str | None:
    if status == 200:
        return None
    if status == 400 and media_type == "application/problem+json":
        return (
            "Paidup answers there, with another STRIPE_WEBHOOK_SECRET or the other mode: set the endpoint's "
            "secret, restart it, then run this again"
        )
    return f"it answers {status}, and Paidup would answer 200: let the proxy pass this path with its headers"
