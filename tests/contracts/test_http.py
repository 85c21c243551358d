"""Requests generated from docs/openapi.yaml, allowed and forbidden ones, against the running server.

schemathesis makes the requests: each boundary that the document draws, a method that is not there, and random
ones of both kinds, the same in each run. It checks statuses, media types, headers and bodies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import requests
from requests.auth import AuthBase

from paidup.web.long_poll import MAX_WAIT_S
from tests.contracts.conftest import OPERATOR_TOKEN, token_of
from tests.support.generated_requests import check_each_request, each_operation
from tests.support.paidup import WEBHOOK_SECRET
from tests.support.stripe_sandbox import sign

if TYPE_CHECKING:
    from schemathesis import Case

pytestmark = pytest.mark.xdist_group("contracts")  # one server for all of them

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "10"))
"""Random requests of each operation; a thousand makes a long run."""

CONFIG = {
    # Unknown query parameters are ignored; tokens are tested in test_bad_input.py.
    "generation": {"allow-extra-parameters": False, "with-security-parameters": False},
    "checks": {
        # An ETag may be the current one, there may be too few credits, a key may have been used, and
        # the body and the header may name different ones.
        "positive_data_acceptance": {"expected-statuses": ["2xx", 304, 400, 402, 404, 409, 422]},
        # A text may be so much too long that the whole body is.
        "negative_data_rejection": {
            "expected-statuses": [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
        },
    },
}


class Signed(AuthBase):
    """Signs the request body as Stripe would."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        assert isinstance(body, str | bytes)
        text = body if isinstance(body, str) else body.decode(errors="replace")
        request.headers["Stripe-Signature"] = sign(text.encode(), WEBHOOK_SECRET)
        return request


@pytest.fixture(scope="package")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@each_operation
def test_the_server_responds_as_documented(
    method: str, path: str, server_url: str, session: requests.Session
) -> None:
    def check(case: Case[Any]) -> None:
        options: dict[str, Any] = {}
        if case.path.startswith("/api"):
            options["headers"] = {"Authorization": f"Bearer {token_of('ada')}"}
        elif case.path.startswith("/operators"):
            options["headers"] = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        elif case.path.startswith("/webhooks"):
            options["auth"] = Signed()
        case.call_and_validate(server_url, session=session, timeout=MAX_WAIT_S + 60, **options)

    check_each_request(method, path, check, CONFIG, EXAMPLES)
