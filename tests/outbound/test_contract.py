"""What is sent is what docs/openapi.yaml says, in `webhooks`."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from paidup.domain.outbound_events import OutboundEventType
from paidup.outbound.dispatcher import Dispatcher
from tests.support.contracts import OPENAPI, document
from tests.support.factories import an_account, granted
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until


def described() -> Any:
    (webhook,) = document(OPENAPI)["webhooks"].values()
    return webhook["post"]["requestBody"]["content"]["application/json"]["schema"]


def test_every_type_of_event_is_described() -> None:
    assert described()["properties"]["type"]["enum"] == [each.value for each in OutboundEventType]


async def test_an_event_is_as_described(dispatcher: Dispatcher, receiver: Receiver) -> None:
    await receiver.become_endpoint()
    dispatcher.refresh()
    await granted(await an_account(), 100)
    await wait_until(lambda: receiver.events)
    validator = jsonschema_rs.Draft202012Validator(described(), validate_formats=True)
    assert [error.message for error in validator.iter_errors(receiver.events[0])] == []
    assert not validator.is_valid({**receiver.events[0], "type": "credits.invented"})
