"""The envelope of an event, and its object where it came along in our API version."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from paidup.stripe_api.schemas import ObjectId, decode

T = TypeVar("T")


class EventData(msgspec.Struct, frozen=True):
    object: msgspec.Raw


THIN_PREFIX = "v1."
Word = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f]{1,255}\Z")]
"""A name that a row can hold."""


class Event(msgspec.Struct, frozen=True):
    """An event's envelope; `data.object` stays raw bytes until its type is known.

    A thin event (`v1.invoice.paid`) has no `data`: it only names the object that it is about.
    """

    id: Word
    type: Word
    livemode: bool
    account: Word | None = None
    """The connected account that it happened in; None for the account of our key."""
    context: Word | None = None
    """The same in a thin event."""
    data: EventData | None = None
    related_object: ObjectId | None = None
    api_version: Word | None = None

    @property
    def kind(self) -> str:
        """The type, the same for a thin event and its twin with a payload."""
        return self.type.removeprefix(THIN_PREFIX)

    def about(self) -> str:
        """The id of the object. Raises msgspec.ValidationError where the event names none."""
        found = decode(ObjectId, self.data.object) if self.data else self.related_object
        if found is None:
            raise msgspec.ValidationError("the event names no object")
        return found.id


def payload(event: Event, kind: type[T], version: str) -> T | None:
    """The event's object, where it came along rendered in API version `version`; else None."""
    if event.data is None or event.api_version != version:
        return None
    return decode(kind, event.data.object)
