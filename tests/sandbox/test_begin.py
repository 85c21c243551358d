"""The tests' own sandbox begins each test as a sandbox does in which the API has just created the prices."""

from __future__ import annotations

from typing import Any

from tests.support.stripe_sandbox import StripeSide

NEW_EACH_TIME = ("id", "created", "updated", "product", "request")


async def test_a_test_begins_with_the_prices_that_the_api_creates(stripe_side: StripeSide) -> None:
    begun = await _everything(stripe_side)
    await stripe_side.control("reset")
    await stripe_side.create_prices()
    assert begun == await _everything(stripe_side)
    assert all(begun.values())


async def test_a_test_begins_without_what_an_earlier_one_left(stripe_side: StripeSide) -> None:
    await stripe_side.customer(email="ada@example.com")
    await stripe_side.conditions(webhook_drop=True)
    await stripe_side.control("clock", {"advance_seconds": 60})
    await stripe_side.begin()
    assert (await stripe_side.api("GET", "customers"))["data"] == []
    assert not (await stripe_side.look("conditions"))["webhook_drop"]
    assert (await stripe_side.look("clock"))["offset_seconds"] == 0
    assert await stripe_side.calls() == 1


async def _everything(stripe_side: StripeSide) -> dict[str, Any]:
    kinds = ("products", "prices", "events")
    return {kind: _lasting((await stripe_side.api("GET", f"{kind}?limit=100"))["data"]) for kind in kinds}


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(inner) for key, inner in value.items() if key not in NEW_EACH_TIME}
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value
