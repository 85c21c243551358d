"""What the sandbox does not imitate gets one clear error that says so, at every endpoint."""

from __future__ import annotations

import re

import pytest

from paidup_demo.sandbox.api import Operation
from paidup_demo.sandbox.app import OPERATIONS

from .rig import Reply, Sandbox
from .test_shapes import live_through_everything

SAYS_SO = "(This sandbox implements only a part of Stripe"


def assert_says_so(reply: Reply, status: int) -> None:
    assert reply.status == status, reply
    assert reply.body["error"]["type"] == "invalid_request_error"
    assert SAYS_SO in reply.body["error"]["message"], reply.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/quotes"),
        ("GET", "/v1/subscription_schedules"),
        ("POST", "/v1/billing_portal/sessions"),
        ("POST", "/v1/test_helpers/test_clocks"),
        ("GET", "/v1/invoices/in_1/nothing"),
        ("PUT", "/v1/customers"),
        ("DELETE", "/v1/prices"),
        ("GET", "/v2/core/events"),
    ],
)
async def test_an_unknown_path(sandbox_bare: Sandbox, method: str, path: str) -> None:
    assert_says_so(await sandbox_bare.raw(method, path), 404)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_an_unknown_parameter(sandbox_bare: Sandbox, operation: Operation) -> None:
    """It is named, before anything is executed, and so are those that are known."""
    method, route = operation.method, operation.route
    form = {"data" if method == "POST" else "params": {"nonsense": "1"}}
    reply = await sandbox_bare.raw(method, route.replace("{id}", "x_1"), key="sk_test_raw", **form)
    assert_says_so(reply, 400)
    assert (reply.body["error"]["code"], reply.body["error"]["param"]) == ("parameter_unknown", "nonsense")


async def test_an_unknown_expansion(sandbox_hooked: Sandbox) -> None:
    """Of an object, and of each one in a list."""
    await live_through_everything(sandbox_hooked)
    tried = 0
    for operation in OPERATIONS:
        if operation.method != "GET" or operation.route == "/v1/account":
            continue
        listed = re.sub(r"/\{id\}.*", "", operation.route)
        rows = (await sandbox_hooked.raw("GET", listed)).body.get("data", [])
        if not rows:
            continue
        path, expand = operation.route.replace("{id}", rows[0]["id"]), "nonsense"
        if "{id}" not in operation.route or operation.route.endswith("lines"):
            expand = "data.nonsense"
        if operation.route.endswith("lines") and not (await sandbox_hooked.raw("GET", path)).body["data"]:
            continue
        assert_says_so(await sandbox_hooked.raw("GET", f"{path}?expand[]={expand}"), 400)
        tried += 1
    assert tried > 25
