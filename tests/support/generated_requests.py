"""Requests that schemathesis generates from docs/openapi.yaml, for a test of each of its operations.

They are made when such a test runs. schemathesis's own parametrization makes most of them at collection, and
so in every worker of a parallel run: for two tests, five seconds of a core each. Importing it takes one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import hypothesis
import msgspec
import pytest

from tests.support.contracts import OPENAPI, document

if TYPE_CHECKING:
    from schemathesis import BaseSchema, Case

PLANS = ["basic", "advanced", "pro"]
STREAM = re.compile("/api/.*/events")
PAGE = re.compile("/operators/(?!api/).*")
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def _paths() -> dict[str, Any]:
    # A stream does not end: tests/scenarios/test_event_streams.py reads them.
    return {path: it for path, it in document(OPENAPI)["paths"].items() if not STREAM.fullmatch(path)}


def _needs_a_page(method: str, path: str) -> bool:
    """Whether it needs the token of a form: tests/operators/test_sign_in.py sends those."""
    return method == "post" and bool(PAGE.fullmatch(path))


OPERATIONS = sorted(
    (method, path)
    for path, described in _paths().items()
    for method in METHODS & described.keys()
    if not _needs_a_page(method, path)
)
each_operation = pytest.mark.parametrize(
    ("method", "path"), OPERATIONS, ids=[f"{method.upper()} {path}" for method, path in OPERATIONS]
)


def narrowed() -> dict[str, Any]:
    """The document, restricted to this server's plans and mode, so that any other is an invalid request.

    A webhook's signature cannot be made up: a test makes it for whatever is sent.
    """
    described: dict[str, Any] = copy.deepcopy({**document(OPENAPI), "paths": _paths()})
    described["components"]["schemas"]["StripeEvent"]["properties"]["livemode"] = {"const": False}
    described["paths"]["/webhooks/stripe"]["post"]["security"] = []
    stream = described["paths"]["/operators/api/events"]["get"]["parameters"]
    stream[:] = [each for each in stream if each["name"] != "wait_s"]  # it would wait
    for body, plans in {"BuyBody": PLANS, "ChangeBody": PLANS, "TopUpBody": ["extra"]}.items():
        described["components"]["schemas"][body]["properties"]["plan"]["enum"] = plans
    return described


@cache
def _schema(config: bytes) -> BaseSchema:
    import schemathesis
    from schemathesis.checks import load_all_checks
    from schemathesis.config import SchemathesisConfig
    from schemathesis.core.result import Ok

    load_all_checks()
    schema = schemathesis.openapi.from_dict(
        narrowed(), config=SchemathesisConfig.from_dict(msgspec.json.decode(config))
    )
    operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    found = {(each.method, each.path) for each in operations}
    assert {each for each in found if not _needs_a_page(*each)} == set(OPERATIONS)
    return schema


def check_each_request(
    method: str,
    path: str,
    check: Callable[[Case[Any]], None],
    config: dict[str, Any],
    max_examples: int,
) -> None:
    """Run `check` with each request that schemathesis, so configured, makes for this operation.

    These are the document's examples, each boundary that it draws, a method that is not there, and random
    ones: the same in each run, unless there are a hundred and more.
    """
    from schemathesis.core.control import SkipTest
    from schemathesis.generation.feedback import FeedbackSources
    from schemathesis.pytest._test_builder import build_operation_test
    from schemathesis.python._constants.orchestrator import make_constants_value_source

    schema = _schema(msgspec.json.encode(config))
    test = build_operation_test(
        config=schema.config,
        operation=schema[path][method],
        test_func=check,
        given_kwargs={},
        feedback=FeedbackSources(constants_value_source=make_constants_value_source(schema)),
        explicit_settings=hypothesis.settings(
            max_examples=max_examples,
            deadline=None,
            derandomize=max_examples < 100,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
    try:
        test()
    except SkipTest as nothing_to_send:
        pytest.skip(str(nothing_to_send))
