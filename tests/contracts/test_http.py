"""Requests generated from docs/openapi.yaml, allowed and forbidden ones, against the running server.

schemathesis makes the requests: each boundary that the document draws, a method that is not there, and random
ones of both kinds, the same in each run. It checks statuses, media types, headers and bodies.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from requests.auth import AuthBase
from schemathesis.config import SchemathesisConfig

from tests.contracts.conftest import OPERATOR_TOKEN, token_of
from tests.support.contracts import OPENAPI, document
from tests.support.paidup import WEBHOOK_SECRET
from tests.support.stripe_sandbox import sign

pytestmark = pytest.mark.xdist_group("contracts")  # one server for all of them

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "10"))
"""Random requests of each operation; a thousand makes a long run."""
DERANDOMIZE = EXAMPLES < 100


STREAM = re.compile("/api/.*/events")


def narrowed() -> dict[str, Any]:
    """The document, restricted to this server's plans and mode, so that any other is an invalid request.

    A webhook's signature cannot be made up: `Signed` makes it for whatever is sent.
    """
    described: dict[str, Any] = copy.deepcopy(document(OPENAPI))
    described["components"]["schemas"]["StripeEvent"]["properties"]["livemode"] = {"const": False}
    described["paths"]["/webhooks/stripe"]["post"]["security"] = []
    stream = described["paths"]["/operators/api/events"]["get"]["parameters"]
    stream[:] = [each for each in stream if each["name"] != "wait_s"]  # it would wait
    # A stream does not end: tests/scenarios/test_event_streams.py reads them.
    described["paths"] = {path: it for path, it in described["paths"].items() if not STREAM.fullmatch(path)}
    for body, plans in {"BuyBody": PLANS, "ChangeBody": PLANS, "TopUpBody": ["extra"]}.items():
        described["components"]["schemas"][body]["properties"]["plan"]["enum"] = plans
    return described


PLANS = ["basic", "advanced", "pro"]
SCHEMA = schemathesis.openapi.from_dict(
    narrowed(),
    config=SchemathesisConfig.from_dict(
        {
            # Unknown query parameters are ignored; tokens are tested in test_bad_input.py.
            "generation": {"allow-extra-parameters": False, "with-security-parameters": False},
            "checks": {
                # An ETag may be the current one, there may be too few credits, a key may have been used, and
                # the body and the header may name different ones.
                "positive_data_acceptance": {"expected-statuses": ["2xx", 304, 400, 402, 404, 409, 422]},
            },
        }
    ),
)


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


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=DERANDOMIZE, suppress_health_check=list(HealthCheck)
)
def test_the_server_responds_as_documented(
    case: schemathesis.Case[Any], server_url: str, session: requests.Session
) -> None:
    options: dict[str, Any] = {}
    if case.path.startswith("/api"):
        options["headers"] = {"Authorization": f"Bearer {token_of('ada')}"}
    elif case.path.startswith("/operators"):
        options["headers"] = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    elif case.path.startswith("/webhooks"):
        options["auth"] = Signed()
    case.call_and_validate(server_url, session=session, **options)
