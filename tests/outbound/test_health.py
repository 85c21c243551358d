"""An endpoint that fails for long is disabled, with an alarm; the settings' endpoints follow the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web

from paidup.db.connection import open_database
from paidup.db.outbound_models import (
    DeliveryState,
    EndpointState,
    EventDelivery,
    EventEndpoint,
    OutboundEvent,
)
from paidup.domain.outbound_settings import OutboundSettings
from paidup.errors import TransactionAborted
from paidup.operations import event_endpoints
from paidup.operations.audit_log import Operator
from paidup.operations.event_endpoints import EndpointChanges, change_endpoint, delete_endpoint
from paidup.operations.event_replay import Replay, replay
from paidup.outbound import due, endpoints
from paidup.outbound.dispatcher import Dispatcher
from paidup.outbound.endpoints import disable, take_settings
from paidup.outbound.retries import DELAYS_S, MAX_ATTEMPTS, MAX_PAUSE_S, endpoint_pause_s, retry_delay_s
from paidup.outbound.sender import Sender
from paidup.reconciliation.alarms import take_snapshot
from paidup.reconciliation.pruning import Retention, prune
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from tests.support.backlogs import add_deliveries, an_endpoint
from tests.support.factories import an_account, granted
from tests.support.receivers import SECRET, Receiver
from tests.support.waiting import wait_until

GRACE = Operator("grace")
NEXT_SECRET = "whsec_" + "b3RoZXItc2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1ldmVudHM="


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[None]:
    async with open_database(database_url):
        for model in (EventDelivery, OutboundEvent, EventEndpoint):
            await model.all().delete()
        yield


@pytest.mark.parametrize("status", [410, 500])
async def test_an_endpoint_that_is_gone_or_only_fails_is_disabled(
    database: None, receiver: Receiver, status: int
) -> None:
    """Its deliveries can be replayed once it is enabled; until then there is an alarm."""
    dispatcher = Dispatcher(Sender(private_addresses=True), Metrics(), disable_after=timedelta(0))
    await dispatcher.open()

    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=status)

    receiver.behave = fail
    await receiver.become_endpoint()
    dispatcher.refresh()
    await granted(await an_account(), 100)
    await wait_until(lambda: EventEndpoint.exists(state=EndpointState.DISABLED))
    (row,) = await EventDelivery.all()
    assert (row.state, row.next_attempt_at, row.status_code) == (DeliveryState.DEAD, None, status)
    snapshot = await take_snapshot()
    assert [alarm.name for alarm in snapshot.alarms] == ["event_endpoint_disabled"]
    assert "backend" in snapshot.alarms[0].text
    assert snapshot.deliveries == {"pending": 0, "dead": 1}
    receiver.behave = None
    await change_endpoint("backend", EndpointChanges(enabled=True), True, GRACE)
    assert (await replay(Replay(endpoint="backend", dead=True), GRACE)).deliveries == 1
    dispatcher.refresh()
    await wait_until(lambda: receiver.types == ["credits.granted"])
    assert [alarm.name for alarm in (await take_snapshot()).alarms] == []
    await dispatcher.close()


async def test_endpoints_of_the_settings_follow_them(database: None) -> None:
    """Two addresses; a second secret for a while; one address less; and back again."""
    one, two = "https://one.example.com/hook", "https://two.example.com/hook"
    for _ in range(2):
        await take_settings(OutboundSettings(event_endpoints=f"{one},{two}", event_secret=SECRET))
    assert await EventEndpoint.filter(state=EndpointState.ENABLED, secret=SECRET).count() == 2
    both = OutboundSettings(event_endpoints=one, event_secret=f"{NEXT_SECRET},{SECRET}")
    await take_settings(both)
    kept, left = await EventEndpoint.get(url=one), await EventEndpoint.get(url=two)
    assert (kept.secret, kept.old_secret, kept.state) == (NEXT_SECRET, SECRET, EndpointState.ENABLED)
    assert kept.old_secret_until is not None
    assert left.state is EndpointState.DELETED
    await change_endpoint(one, EndpointChanges(enabled=False), False, GRACE)
    await take_settings(OutboundSettings(event_endpoints=f"{one},{two}", event_secret=NEXT_SECRET))
    kept, left = await EventEndpoint.get(url=one), await EventEndpoint.get(url=two)
    assert (kept.old_secret, kept.state) == (None, EndpointState.DISABLED), "until somebody enables it"
    assert left.state is EndpointState.ENABLED


async def test_the_name_of_an_endpoint_of_the_settings_has_no_query(database: None) -> None:
    """Metrics and logs have names. Each URL has one of its own, and a row is known by its URL, too."""
    old, plain = "https://app.example.com/hook?key=old", "https://app.example.com/hook"
    others = [plain, f"{plain}?key=one", f"{plain}?key=two"]
    row, _ = [
        await EventEndpoint.create(name=name, url=old, types=[], secret=SECRET, from_settings=True)
        for name in (old, "made by another version")
    ]
    for urls in ([old, *others], [*reversed(others), old]):
        await take_settings(OutboundSettings(event_endpoints=",".join(urls), event_secret=SECRET))
        rows = await EventEndpoint.filter(state=EndpointState.ENABLED).order_by("id")
        assert [each.url for each in rows] == [old, *others]
    assert (rows[0].id, rows[1].name) == (row.id, plain)
    for each in rows[2:]:
        assert each.name.startswith(f"{plain} (")
        assert "key" not in each.name


async def test_old_events_are_deleted_unless_one_is_pending(database: None) -> None:
    endpoint = await EventEndpoint.create(name="e", url="https://e.example.com", types=[], secret=SECRET)
    old = now() - timedelta(days=31)
    for number, (at, fanned_out, state) in enumerate(
        [
            (old, True, DeliveryState.DELIVERED),
            (old, True, DeliveryState.PENDING),
            (old, True, DeliveryState.DEAD),
            (old, False, None),
            (now(), True, DeliveryState.DELIVERED),
        ]
    ):
        event = await OutboundEvent.create(
            message=f"msg_{number}", type="balance.low", data={}, fanned_out=fanned_out, created_at=at
        )
        if state:
            await EventDelivery.create(event=event, endpoint=endpoint, state=state, created_at=at)
    assert await prune(Retention()) == 2
    assert {row.message for row in await OutboundEvent.all()} == {"msg_1", "msg_3", "msg_4"}
    assert await EventDelivery.all().count() == 2


async def test_a_round_reads_nothing_after_the_first_event_that_stays(database: None) -> None:
    """Its cost follows what is old, not what is kept: the time of an event has no index."""
    old = now() - timedelta(days=31)
    for number, at in enumerate([old, now(), old]):
        await OutboundEvent.create(
            message=f"msg_{number}", type="balance.low", data={}, fanned_out=True, created_at=at
        )
    assert await prune(Retention()) == 1
    assert {row.message for row in await OutboundEvent.all()} == {"msg_1", "msg_2"}


def test_retries_last_three_days_and_then_end() -> None:
    assert sum(DELAYS_S) / 86_400 == pytest.approx(3.15, abs=0.02)
    assert retry_delay_s(1, 0.5) == 5.0
    assert retry_delay_s(1, 0.5, retry_after_s=60.0) == 60.0
    assert retry_delay_s(1, 0.5, retry_after_s=1e9) == 86_400.0
    assert retry_delay_s(MAX_ATTEMPTS - 1, 0.5) == DELAYS_S[-1]
    assert retry_delay_s(MAX_ATTEMPTS, 0.5) is None
    assert endpoint_pause_s(4, 0.5) is None
    assert endpoint_pause_s(5, 0.5) == 2.0
    assert endpoint_pause_s(500, 0.5) == MAX_PAUSE_S


def aborted_once(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
    """`name` of this module is aborted the first time, in favour of another transaction."""
    original: Callable[..., Any] = getattr(module, name)

    def abort(*_: Any, **__: Any) -> Any:
        monkeypatch.setattr(module, name, original)
        raise TransactionAborted("a deadlock")

    monkeypatch.setattr(module, name, abort)


async def test_disabling_an_endpoint_is_done_again_after_a_deadlock(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL, with the records of a batch of its deliveries: an operator is not told of it."""
    for by in ("dispatcher", "operator", "deletion"):
        endpoint = await an_endpoint()
        await add_deliveries(endpoint, [None], now())
        if by == "dispatcher":
            aborted_once(monkeypatch, endpoints, "locked")
            await disable(endpoint.id, "it answered 410 Gone")
        else:
            aborted_once(monkeypatch, event_endpoints, "note")
            changes = EndpointChanges(enabled=False)
            if by == "operator":
                await change_endpoint(endpoint.name, changes, private_allowed=True, operator=GRACE)
            else:
                await delete_endpoint(endpoint.name, GRACE)
        assert await EventDelivery.filter(endpoint=endpoint, state=DeliveryState.DEAD).count() == 1


async def test_a_record_is_written_again_after_a_deadlock(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what was delivered is sent once more, after its lease."""
    at, endpoint = now(), await an_endpoint()
    await add_deliveries(endpoint, [None], at)
    (claimed,) = (await due.claim(endpoint.id, at, 1)).due
    aborted_once(monkeypatch, due, "is_sqlite")
    await due.record([due.Result(claimed.id, 1, DeliveryState.DELIVERED, None, at, 200, "", None, 1)], at)
    assert await EventDelivery.filter(endpoint=endpoint, state=DeliveryState.DELIVERED).count() == 1
