"""Outbound events that wait for endpoints: rows of any state, made directly."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from itertools import count

from paidup.db.models import Account
from paidup.db.outbound_models import DeliveryState, EventDelivery, EventEndpoint, OutboundEvent
from tests.support.factories import an_account

_numbers = count(1)


async def an_endpoint() -> EventEndpoint:
    name = f"endpoint-{next(_numbers)}"
    return await EventEndpoint.create(name=name, url=f"https://{name}.example", types=[], secret="")


async def add_events(accounts: list[Account | None], at: datetime, fanned_out: bool = True) -> list[int]:
    """An event for each, in this order; their ids."""
    rows = [
        OutboundEvent(
            message=f"msg_{next(_numbers)}",
            account=account,
            type="credits.adjusted",
            data={},
            fanned_out=fanned_out,
            created_at=at,
        )
        for account in accounts
    ]
    last = await OutboundEvent.all().order_by("-id").first()
    await OutboundEvent.bulk_create(rows)
    return [row.id for row in await OutboundEvent.filter(id__gt=last.id if last else 0).order_by("id")]


async def add_deliveries(endpoint: EventEndpoint, accounts: list[Account | None], at: datetime) -> list[int]:
    """Events and their deliveries, which are due; the ids of the events."""
    events = await add_events(accounts, at)
    await EventDelivery.bulk_create(
        EventDelivery(
            event_id=event,
            endpoint=endpoint,
            account_id=account.id if account else None,
            next_attempt_at=at,
            created_at=at,
        )
        for event, account in zip(events, accounts, strict=True)
    )
    return events


async def a_backlog(endpoint: EventEndpoint, accounts: int, each: int, at: datetime) -> None:
    """Of each account the first has failed and is due in five minutes; the others are due."""
    for _ in range(accounts):
        first, *_ = await add_deliveries(endpoint, [await an_account()] * each, at)
        failed = EventDelivery.filter(endpoint=endpoint, event_id=first)
        await failed.update(attempts=1, next_attempt_at=at + timedelta(minutes=5))


async def any_deliveries(chance: random.Random, at: datetime, most: int) -> list[EventEndpoint]:
    """Deliveries of any state, replayed or not, of a few accounts and of none, to two endpoints."""
    accounts = [None, *[await an_account() for _ in range(chance.randint(1, 12))]]
    endpoints = [await an_endpoint() for _ in range(2)]
    for fanned_out in (True, True, True, chance.random() < 0.7, True):
        named = [chance.choice(accounts) for _ in range(chance.randint(0, most // 5))]
        events = await add_events(named, at, fanned_out)
        for event, account in zip(events, named, strict=True):
            if fanned_out:
                rows = [_any_delivery(chance, event, account, endpoint, at) for endpoint in endpoints]
                await EventDelivery.bulk_create(row for row in rows if chance.random() < 0.9)
    return endpoints


def _any_delivery(
    chance: random.Random, event: int, account: Account | None, endpoint: EventEndpoint, at: datetime
) -> EventDelivery:
    state = chance.choice([*[DeliveryState.PENDING] * 4, *DeliveryState])
    due_at = at + timedelta(seconds=chance.randint(-20, 3))
    return EventDelivery(
        event_id=event,
        endpoint=endpoint,
        account_id=account.id if account else None,
        state=state,
        attempts=chance.choice([0, 0, 0, 1, 4]),
        next_attempt_at=due_at if state is DeliveryState.PENDING else None,
        replayed_at=at if chance.random() < 0.25 else None,
        created_at=at,
    )
