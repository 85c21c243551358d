"""`paidup endpoints`, `deliveries`, `replay`, `trigger` and `listen`: what they print, and their errors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from paidup.db.connection import open_database
from paidup.db.outbound_models import DeliveryState, EventDelivery, OutboundEvent
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN, Run, document
from tests.support.paidup import environment
from tests.support.processes import Child
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
URL = "https://app.example.com/hooks/paidup"


async def a_dead_delivery(database_url: str) -> int:
    """Of one event to the first endpoint, given up after its last try."""
    async with open_database(database_url):
        event = await OutboundEvent.create(
            message="msg_1", type="credits.granted", data={"credits": 5}, fanned_out=True, created_at=now()
        )
        answered: dict[str, Any] = {"status_code": 500, "answer": "[red]Out of memory", "attempts": 9}
        row = await EventDelivery.create(
            event=event,
            endpoint_id=1,
            state=DeliveryState.DEAD,
            error="answered 500",
            created_at=now(),
            **answered,
        )
        return int(row.id)


async def test_endpoints_and_deliveries_are_managed_by_commands(run: Run, database_url: str) -> None:
    assert (await run("endpoints", "list"))[1].startswith("There are no endpoints")
    code, output = await run("endpoints", "create", URL, "--name", "backend", "--type", "credits.granted")
    assert code == 0, output
    assert "Shown once" in output
    assert "whsec_" in output
    code, output = await run("endpoints", "create", "http://app.example.com/hook")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("error: The URL is not HTTPS.")

    delivery = await a_dead_delivery(database_url)
    code, output = await run("deliveries", "list", "--state", "dead")
    assert (code, "credits.granted  -  backend  answered 500" in output) == (0, True), output
    _, output = await run("deliveries", "show", str(delivery))
    assert "webhook-id: msg_1" in output
    assert "Answer: 500\n[red]Out of memory" in output
    code, output = await run("replay", "--endpoint", "backend", "--dead", "--json")
    assert (code, document(output)) == (0, {"deliveries": 1})
    code, output = await run("replay", str(delivery))
    assert (code, output) == (0, "Deliveries that are sent again: 0\n"), "it is pending by now"

    _, output = await run("endpoints", "rotate", "backend", "--by", "grace", "--reason", "leaked", "--json")
    assert document(output)["old_secret_until"]
    code, output = await run("endpoints", "disable", "backend")
    assert (code, "disabled by an operator" in output, "1 dead" in output) == (0, True, True)
    _, output = await run("audit-log")
    _, rotated, *replayed, created = output.splitlines()
    assert rotated.startswith("backend: ")
    assert "UTC, grace: rotate_secret, old_secret_until None -> 2" in rotated
    assert rotated.endswith("): leaked")
    assert len(replayed) == 2
    assert " -> https://app.example.com/hooks/paidup, types None -> ['credits.granted']" in created
    for arguments, why in (
        (
            ("replay", "--endpoint", "backend"),
            "error: The endpoint 'backend' is disabled: enable it first.\n",
        ),
        (("replay", "msg_1", "--dead"), "error: --since, --until and --dead are for an endpoint's events"),
        (("replay", "evt_1", "--dead"), "error: The options are for events that endpoints receive"),
        (("replay", "in_1"), "error: 'in_1' is no event: evt_..., msg_..., or the number of a delivery."),
        (("endpoints", "show", "elsewhere"), "error: There is no endpoint 'elsewhere'"),
        (("trigger", "credits.granted"), "error: OPERATOR_TOKEN is missing"),
        (
            ("listen", "--forward-to", "localhost:1", "--token", "t", "--secret", "whsec_x"),
            "error: The secret cannot be used: ",
        ),
    ):
        code, output = await run(*arguments)
        assert (code, output.startswith(why)) == (1, True), output


async def test_listen_forwards_what_trigger_sends(world: World, run: Run, home: Path) -> None:
    """The receiver is not there, which is said with each event."""
    paidup = await world.server(webhooks=False, operator_token=OPERATOR_TOKEN)
    variables = environment(**world.given())
    (home / "token").write_text(f"{OPERATOR_TOKEN}\n")
    (home / ".env").write_text(f"OPERATOR_TOKEN_FILE=token\nPORT={paidup.url.rpartition(':')[2]}\n")
    log, arguments = home / "listen.log", ["--forward-to", "127.0.0.1:1/hook"]
    child = Child(["-m", "paidup.cli", "listen", *arguments], variables, log, cwd=home, forked=True)
    try:
        await wait_until(lambda: "The signing secret: whsec_" in child.output)

        async def forwarded() -> bool:
            code, output = await run("trigger", "balance.depleted")
            assert (code, output.startswith("balance.depleted [msg_")) == (0, True), output
            return "--> balance.depleted [msg_" in child.output

        await wait_until(forwarded)
        await wait_until(lambda: "<-- [no answer: " in child.output)
        assert f"Ready: events of {paidup.url} go to http://127.0.0.1:1/hook." in child.output
    finally:
        await asyncio.to_thread(child.stop)
