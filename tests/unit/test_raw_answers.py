"""Calls of which only the body is used: they send what the SDK itself would send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest
import stripe

from paidup.stripe_api.raw_answers import RawAnswer, RawCalls

BODY = b'{"id": "in_1"}'
ERROR = (
    b'{"error": {"type": "invalid_request_error", "code": "lock_timeout", "message": "no", "param": "id"}}'
)


class Recorder(stripe.HTTPClient):
    """Answers at once, and keeps what it was given."""

    name = "recorder"

    def __init__(self, *codes: int, body: bytes = BODY) -> None:
        super().__init__()
        self._body = body
        self.sent: list[tuple[str, str, dict[str, str], Any]] = []
        self._codes = list(codes)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        self.sent.append((method, unquote(url), dict(headers), post_data))
        code = self._codes.pop(0) if self._codes else 200
        return (
            self._body,
            code,
            {"Request-Id": f"req_{len(self.sent)}", "request-id": f"req_{len(self.sent)}"},
        )

    async def sleep_async(self, secs: float) -> None:
        pass


def _client(recorder: Recorder, retries: int = 2) -> stripe.StripeClient:
    return stripe.StripeClient(
        "sk_test_raw",
        stripe_account="acct_1",
        http_client=recorder,
        max_network_retries=retries,
        base_addresses={"api": "http://stripe"},
    )


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("get", {}),
        ("get", {"expand": ["payments.data.payment", "lines"], "created": {"gte": 5}, "limit": 100}),
        ("post", {"metadata": {"paidup": "a b"}, "items": [{"price": "price_1"}]}),
    ],
)
async def test_a_raw_call_sends_what_the_sdk_sends(method: str, params: dict[str, Any]) -> None:
    """Key, account, version, user agent, idempotency key, parameters, and the last request's metrics."""
    recorder = Recorder()
    client = _client(recorder)
    answer = await RawCalls(client)(method, "/v1/invoices", params, "one-key")
    assert answer == RawAnswer(BODY, 200, answer.headers)
    assert answer.request_id == "req_1"
    await client.raw_request_async(method, "/v1/invoices", **params, idempotency_key="one-key")
    (*raw, raw_headers, raw_data), (*sdks, headers, data) = (
        (method, url, headers, data) for method, url, headers, data in recorder.sent
    )
    assert headers.pop("X-Stripe-Client-Telemetry")  # of the call before
    if method == "get":
        del headers["Idempotency-Key"]  # changes nothing in a read
    assert (raw, raw_headers, raw_data) == (sdks, headers, data)
    await RawCalls(client)(method, "/v1/invoices", params)
    assert "X-Stripe-Client-Telemetry" in recorder.sent[-1][2]


async def test_posts_have_a_key_of_their_own_each_and_its_retries_the_same() -> None:
    """Two purchases are never taken for one, nor one for two."""
    recorder = Recorder(500, 409)
    calls = RawCalls(_client(recorder))
    await calls("post", "/v1/customers", {})
    await calls("post", "/v1/customers", {})
    await calls("get", "/v1/customers", {})
    keys = [headers.get("Idempotency-Key") for _, _, headers, _ in recorder.sent]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert keys[3] is not None
    assert keys[4] is None


@pytest.mark.parametrize(("retries", "sent"), [(None, 3), (0, 1)])
async def test_a_call_is_retried_as_the_client_is_told_unless_it_says_otherwise(
    retries: int | None, sent: int
) -> None:
    """A verification retries by itself, with a slot for each call."""
    recorder = Recorder(500, 500, 500)
    with pytest.raises(stripe.APIError):
        await RawCalls(_client(recorder))("get", "/v1/invoices/in_1", {}, network_retries=retries)
    assert len(recorder.sent) == sent


@pytest.mark.parametrize("body", [ERROR, BODY, b"<html>", b""])
@pytest.mark.parametrize("code", [302, 400, 401, 402, 403, 404, 409, 429, 500])
async def test_a_refusal_raises_what_the_sdk_raises(code: int, body: bytes) -> None:
    """So that what is refused, unavailable or limited is told apart as before."""
    sdks, ours = (_client(Recorder(*[code] * 3, body=body)) for _ in range(2))
    with pytest.raises(stripe.StripeError) as expected:
        await sdks.raw_request_async("get", "/v1/invoices/in_1")
    with pytest.raises(stripe.StripeError) as raised:
        await RawCalls(ours)("get", "/v1/invoices/in_1", {})
    assert type(raised.value) is type(expected.value)
    assert vars(raised.value).keys() == vars(expected.value).keys()
    for name in ("args", "code", "headers", "http_body", "http_status", "json_body"):
        assert getattr(raised.value, name) == getattr(expected.value, name)
