"""The operators' API for events: endpoints, their secrets, deliveries and replays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from paidup.db.models import Account, Correction
from paidup.db.outbound_models import (
    DeliveryState,
    EndpointState,
    EventDelivery,
    EventEndpoint,
    OutboundEvent,
)
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import Paidup

URL = "https://app.example.com/hooks/paidup"


class Operators:
    """Calls one server's API under the operators' token."""

    def __init__(self, paidup: Paidup, http: aiohttp.ClientSession) -> None:
        self._url = f"{paidup.url}/operators/api/"
        self._http = http

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        given = {"Authorization": f"Bearer {OPERATOR_TOKEN}", **headers}
        async with self._http.request(method, self._url + path, json=body, headers=given) as response:
            return response.status, await response.json()

    async def head(self, path: str) -> int:
        headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        async with self._http.head(self._url + path, headers=headers) as response:
            return response.status


@pytest.fixture
async def operators(world: World, http: aiohttp.ClientSession) -> Operators:
    return Operators(await world.server(webhooks=False, operator_token=OPERATOR_TOKEN), http)


async def an_event(number: int, account: Account | None = None, **values: Any) -> OutboundEvent:
    """An event that was given to the endpoints that there were."""
    defaults: dict[str, Any] = {
        "message": f"msg_{number}",
        "account_id": account.id if account else None,
        "type": "credits.granted",
        "version": number,
        "balance": 100 * number,
        "data": {"credits": 100},
        "fanned_out": True,
        "created_at": now() - timedelta(hours=24 - number),
    }
    return await OutboundEvent.create(**{**defaults, **values})


async def an_endpoint(name: str, types: Sequence[str] = ()) -> EventEndpoint:
    """One to which the server's dispatcher sends nothing now, as after failures."""
    later = now() + timedelta(hours=1)
    return await EventEndpoint.create(
        name=name, url=URL, types=list(types), secret="whsec_aGVyZQ==", retry_at=later
    )


async def delivered(
    event: OutboundEvent, endpoint: int, state: DeliveryState, **values: Any
) -> EventDelivery:
    return await EventDelivery.create(
        event=event,
        endpoint_id=endpoint,
        account_id=event.account_id,
        state=state,
        created_at=now(),
        **values,
    )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_api_needs_the_token_as_a_bearer_token(
    operators: Operators, world: World, http: aiohttp.ClientSession
) -> None:
    """A browser that knows it as a password sends no bearer token for a page of another site."""
    for wrong in ("", "Bearer", "Bearer wrong", "Basic b3A6dG9rZW4tb2YtdGhlLW9wZXJhdG9ycw==", OPERATOR_TOKEN):
        assert (await operators("POST", "endpoints", {"url": URL}, Authorization=wrong))[0] == 401
    assert (await operators("GET", "endpoints"))[1] == {"endpoints": []}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_without_the_token_in_the_settings_the_api_does_not_exist(
    paidup: Paidup, http: aiohttp.ClientSession
) -> None:
    assert (await Operators(paidup, http)("GET", "endpoints"))[0] == 404


async def test_an_endpoint_is_made_changed_disabled_and_deleted(operators: Operators) -> None:
    status, made = await operators("POST", "endpoints", {"url": URL, "types": ["credits.granted"]})
    assert (status, made["name"], made["state"]) == (201, "app.example.com/hooks/paidup", "enabled")
    assert made["secret"].startswith("whsec_")
    _, shown = await operators("GET", f"endpoints/{made['id']}")
    assert shown == {**made, "secret": None}, "a secret is shown once"
    assert await operators.head(f"endpoints/{made['id']}") == 200, "it changes nothing"
    assert (await operators("GET", "endpoints"))[1]["endpoints"] == [shown]

    status, refused = await operators("POST", "endpoints", {"url": URL})
    assert (status, "another name" in refused["detail"]) == (409, True)
    for body, why in (
        ({"url": "http://app.example.com/hook"}, "not HTTPS"),
        ({"url": "https://10.0.0.1/hook"}, "of this network"),
        ({"url": URL, "types": ["credits.gifted"]}, "no event type 'credits.gifted'"),
        ({"url": URL, "name": "17"}, "not only digits"),
    ):
        status, refused = await operators("POST", "endpoints", body)
        assert (status, why in refused["detail"]) == (422, True), refused

    status, changed = await operators(
        "PATCH", f"endpoints/{made['name']}".replace("/hooks/", "%2Fhooks%2F"), {}
    )
    assert status == 404, "a name with a slash is none of a path: use the id"
    types = ["credits.granted", "balance.low"]
    status, changed = await operators("PATCH", f"endpoints/{made['id']}", {"types": types})
    assert (status, changed["types"]) == (200, types)

    later = now() + timedelta(hours=1)
    pending = await delivered(await an_event(1), made["id"], DeliveryState.PENDING, next_attempt_at=later)
    assert (await operators("GET", f"endpoints/{made['id']}"))[1]["pending"] == 1
    _, disabled = await operators("PATCH", f"endpoints/{made['id']}", {"enabled": False})
    assert (disabled["state"], disabled["pending"], disabled["dead"]) == ("disabled", 0, 1)
    assert disabled["disabled_because"] == "disabled by an operator"
    await pending.refresh_from_db()
    assert (pending.state, pending.next_attempt_at) == (DeliveryState.DEAD, None)
    status, refused = await operators("POST", "replay", {"endpoint": str(made["id"])})
    assert (status, "enable it first" in refused["detail"]) == (409, True)
    _, enabled = await operators("PATCH", f"endpoints/{made['id']}", {"enabled": True})
    assert (enabled["state"], enabled["disabled_at"], enabled["dead"]) == ("enabled", None, 1)

    status, deleted = await operators("DELETE", f"endpoints/{made['id']}")
    assert (status, deleted["state"]) == (200, "deleted")
    assert (await operators("GET", f"endpoints/{made['id']}"))[0] == 404
    assert (await operators("POST", "endpoints", {"url": URL}))[0] == 201, "its name is free again"
    assert len((await operators("GET", "deliveries"))[1]["deliveries"]) == 1


async def test_a_secret_is_rotated_with_two_valid_ones_for_a_bounded_time(operators: Operators) -> None:
    _, made = await operators("POST", "endpoints", {"url": URL, "name": "backend"})
    _, rotated = await operators("POST", "endpoints/backend/secret", {"overlap_hours": 2})
    row = await EventEndpoint.get(id=made["id"])
    assert (row.old_secret, row.secret) == (made["secret"], rotated["secret"])
    assert row.secret != row.old_secret
    assert row.old_secret_until
    assert timedelta(hours=1, minutes=55) < row.old_secret_until - now() <= timedelta(hours=2)

    status, refused = await operators("POST", "endpoints/backend/secret")
    assert (status, "is valid until" in refused["detail"]) == (409, True)
    assert (await operators("POST", "endpoints/backend/secret", {"overlap_hours": 169}))[0] == 422
    _, at_once = await operators("POST", "endpoints/backend/secret", {"overlap_hours": 0})
    await row.refresh_from_db()
    assert row.secret == at_once["secret"]
    assert row.old_secret is None

    await EventEndpoint.filter(id=row.id).update(old_secret="whsec_b2xk", old_secret_until=now())
    _, shown = await operators("GET", "endpoints/backend")
    assert shown["old_secret_until"] is None
    assert (await operators("POST", "endpoints/backend/secret"))[0] == 200, "the former rotation is over"

    await EventEndpoint.filter(id=row.id).update(from_settings=True)
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/secret")):
        status, refused = await operators(
            method, f"endpoints/backend{path}", {} if method != "DELETE" else None
        )
        assert (status, "in the settings" in refused["detail"]) == (409, True)


async def test_each_change_has_its_row_in_the_audit_log_and_no_row_a_secret(operators: Operators) -> None:
    """Also not what somebody has put into the query of a URL. What is refused has no row."""
    why = {"by": "grace", "reason": "ticket 7"}
    url = f"{URL}?key=abc-123"
    _, made = await operators("POST", "endpoints", {"url": url, "name": "backend", **why})
    await operators("POST", "endpoints", {"url": URL, "name": "backend", **why})
    await operators("PATCH", "endpoints/backend", {"types": ["balance.low"], **why})
    await operators("PATCH", "endpoints/backend", {"url": f"{url}4", "enabled": False, "by": "ada"})
    await operators("PATCH", "endpoints/backend", {"enabled": True})
    _, rotated = await operators("POST", "endpoints/backend/secret", {"overlap_hours": 0, **why})
    await an_event(1, type="balance.low")
    assert (await operators("POST", "replay", {"endpoint": str(made["id"]), **why}))[1] == {"deliveries": 1}
    await operators("POST", "replay", {"event": "msg_1", **why})
    await operators("POST", "replay", {"event": "msg_none", **why})
    assert (await operators("DELETE", f"endpoints/backend?by={'x' * 201}"))[0] == 422
    await operators("DELETE", "endpoints/backend?by=grace&reason=ticket%207")

    _, listed = await operators("GET", "corrections")
    rows = list(reversed(listed["corrections"]))
    endpoint, shown = {"endpoint": "backend", "id": made["id"]}, {"url": URL, "state": "enabled"}
    assert [(row["action"], row["details"], row["before"], row["after"]) for row in rows] == [
        ("create_endpoint", endpoint, {}, {**shown, "types": []}),
        ("change_endpoint", endpoint, {"types": []}, {"types": ["balance.low"]}),
        ("change_endpoint", endpoint, shown, {**shown, "state": "disabled"}),
        ("change_endpoint", endpoint, {"state": "disabled"}, {"state": "enabled"}),
        ("rotate_secret", endpoint, {"old_secret_until": None}, {"old_secret_until": None}),
        ("replay", {"endpoint": "backend"}, {}, {}),
        ("replay", {"event": "msg_1"}, {}, {}),
        ("delete_endpoint", endpoint, {"state": "enabled"}, {"state": "deleted"}),
    ]
    said = ["grace: ticket 7", "grace: ticket 7", "ada: ", "operators' API: ", *["grace: ticket 7"] * 4]
    assert [f"{row['by']}: {row['reason']}" for row in rows] == said
    everything = str(await Correction.all().values())
    for secret in (made["secret"], rotated["secret"], "whsec_", "abc-123"):
        assert secret not in everything


async def test_deliveries_are_listed_by_pages_and_shown_with_request_and_answer(operators: Operators) -> None:
    ada, eve = await an_account(), await an_account("eve")
    invoice = await an_invoice(ada, subscription="sub_17")
    here = await an_endpoint("here")
    there = await an_endpoint("there")
    rows = []
    for number in range(1, 6):
        event = await an_event(number, ada if number < 5 else eve, invoice=invoice.id)
        rows.append(await delivered(event, here.id, DeliveryState.DELIVERED, status_code=204))
    lost = await an_event(6, eve, type="balance.low")
    told = {"status_code": 500, "answer": "<b>Out of memory</b>", "error": "answered 500", "attempts": 9}
    dead = await delivered(lost, there.id, DeliveryState.DEAD, **told)

    async def ids(query: str) -> list[int]:
        return [each["id"] for each in (await operators("GET", f"deliveries?{query}"))[1]["deliveries"]]

    everything = [dead.id, *(row.id for row in reversed(rows))]
    assert await ids("") == everything
    _, page = await operators("GET", "deliveries?limit=4")
    assert ([each["id"] for each in page["deliveries"]], page["next"]) == (everything[:4], everything[3])
    _, page = await operators("GET", f"deliveries?limit=4&before={page['next']}")
    assert ([each["id"] for each in page["deliveries"]], page["next"]) == (everything[4:], None)
    assert (
        await ids("state=dead") == await ids("endpoint=there") == await ids("type=balance.low") == [dead.id]
    )
    assert await ids(f"account={eve.external_id}") == [dead.id, rows[4].id]
    assert await ids("event=msg_2") == await ids(f"event=msg_2&invoice={invoice.id}") == [rows[1].id]
    assert await ids("account=nobody") == []
    for query, expected in (("state=late", 422), ("limit=101", 422), ("before=x", 422), ("endpoint=no", 404)):
        assert (await operators("GET", f"deliveries?{query}"))[0] == expected

    _, report = await operators("GET", f"deliveries/{rows[0].id}")
    assert report["request"]["url"] == URL
    assert report["request"]["headers"]["webhook-id"] == "msg_1"
    assert f'"account":"{ada.external_id}"' in report["request"]["body"]
    assert '"subscription":"sub_17"' in report["request"]["body"]
    _, report = await operators("GET", f"deliveries/{dead.id}")
    assert report["answer"] == {"status_code": 500, "body": "<b>Out of memory</b>"}
    assert (await operators("GET", "deliveries/9999"))[0] == 404


async def test_events_are_sent_again_one_by_one_by_time_and_by_endpoint(operators: Operators) -> None:
    """Including those from before the endpoint existed; what is pending anyway is left as it is."""
    here = await an_endpoint("here")
    events = [await an_event(number) for number in range(1, 6)]
    done = await delivered(events[0], here.id, DeliveryState.DELIVERED, attempts=3, status_code=204)
    dead = await delivered(events[1], here.id, DeliveryState.DEAD, attempts=9, error="answered 500")
    pending = await delivered(events[2], here.id, DeliveryState.PENDING, attempts=2, next_attempt_at=now())
    await an_event(6, type="balance.low", fanned_out=False)  # its deliveries are still to be made

    async def replay(**wanted: Any) -> Any:
        status, answer = await operators("POST", "replay", wanted)
        return answer["deliveries"] if status == 200 else (status, answer["detail"])

    assert await replay(delivery=done.id) == 1
    await done.refresh_from_db()
    assert (done.state, done.attempts, done.error) == (DeliveryState.PENDING, 0, None)
    assert done.next_attempt_at is not None
    assert done.next_attempt_at == done.replayed_at
    assert await replay(delivery=done.id) == 0, "it is due already"
    assert await replay(event="msg_2") == 1
    await EventDelivery.filter(id=dead.id).update(state=DeliveryState.DEAD)
    assert await replay(endpoint="here", dead=True) == 1
    await pending.refresh_from_db()
    assert (pending.attempts, pending.replayed_at) == (2, None)

    late = await an_endpoint("late", ["credits.granted"])
    since, until = events[1].created_at, events[3].created_at
    wanted = {"since": since.isoformat(), "until": until.isoformat()}
    assert await replay(endpoint="late", **wanted) == 3
    assert await replay(endpoint="late") == 2
    rows = await EventDelivery.filter(endpoint_id=late.id, state=DeliveryState.PENDING).order_by("event_id")
    assert [row.event_id for row in rows] == [event.id for event in events]
    assert await replay(event="msg_6", endpoint="late") == 1, "an operator may send it there all the same"

    assert (await replay(event="msg_none"))[0] == 404
    assert (await replay(endpoint="nowhere"))[0] == 404
    assert (await replay(delivery=9999))[0] == 404
    assert (await replay())[0] == (await replay(delivery=1, event="msg_1"))[0] == 422
    assert "needs its offset" in (await replay(endpoint="late", since="2026-11-27T10:00:00"))[1]
    await EventEndpoint.filter(id=here.id).update(state=EndpointState.DELETED)
    assert (await replay(delivery=done.id))[0] == 409
