"""Erases what names a person, and keeps the books: the amounts, the dates, and Stripe's ids.

The user id becomes a random one. References, reasons and keys of the SaaS, payloads of events, timelines and
texts of the audit log go. Again for the same person, it does nothing more. It cannot be undone.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from tortoise.expressions import Q, Subquery
from tortoise.queryset import QuerySet

from paidup.db.connection import connection, locked, storage_errors, write_transaction
from paidup.db.models import (
    Account,
    Action,
    CheckoutSession,
    Correction,
    Invoice,
    StripeCustomer,
    StripeEvent,
    Subscription,
    TimelineEntry,
)
from paidup.db.outbound_models import EventDelivery, OutboundEvent
from paidup.domain.entitlements import ENDED
from paidup.domain.outbound_events import OutboundEventType
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.operations.audit_log import (
    Corrected,
    Instruction,
    Request,
    done_before,
    once,
    record,
    request,
)
from paidup.runtime.clock import now

ERASED = "erased"
IDS_AT_ONCE, EVENTS_AT_ONCE = 40, 2000
"""How many ids one statement looks for, and in how many events."""
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
ROWS_AT_ONCE = 500
TRIES = 3
CLOCKS_DIFFER = timedelta(minutes=1)
"""By how much the clock of the process that stored an event may be behind this one's."""
T = TypeVar("T")
# The references and keys of spends and reservations are the SaaS's words, and so are the reasons of spends.
_FORGET_ENTRIES = """
UPDATE ledger_entries SET reference = account_id || ':erased-' || id,
  reason = CASE WHEN kind = 'spend' THEN '' ELSE reason END
WHERE account_id IN ({ids}) AND kind IN ('spend', 'reserve', 'release')
"""
# Another word than an entry's: where one is still held, its end has an entry whose reference is this key.
_FORGET_RESERVATIONS = "UPDATE reservations SET key = 'erased-hold-' || id WHERE account_id IN ({ids})"


class EventsAbout(NamedTuple):
    """Ids of stored events, by what of them names a person."""

    payloads: list[str]
    errors: list[str]
    dismissals: list[str]


class Person(msgspec.Struct, frozen=True):
    """Whose data it is: an account with those that were merged into it, and what names them in texts."""

    accounts: list[int]
    stripe_ids: list[str]
    marks: list[str]

    def named_in(self, text: str | None) -> bool:
        """Whether a text has one of the marks, as a word of its own."""
        words = (rf"(?<![\w-]){re.escape(mark)}(?![\w-])" for mark in self.marks)
        return any(re.search(word, text or "", re.IGNORECASE) for word in words)


async def erase(account: str, instruction: Instruction, also: Sequence[str] = ()) -> Corrected:
    """Erase the person behind an account. `also`: names or addresses that operators' texts may have.

    Raises NotFound, InvalidInput (the reason names them), Conflict (a subscription runs, a voucher is open,
    or an event about them waits to be handled), StorageUnavailable.
    """
    # Nothing of the person may be kept, not even as a digest: so the key alone says what was asked for.
    wanted = request(Action.ERASE, instruction)
    with storage_errors():
        done, found = await done_before(wanted), await Account.get_or_none(external_id=account)
        if done is not None:
            if found is not None:
                raise Conflict(f"The key {wanted.instruction.key!r} was used for another account: {done.id}.")
            return done
        if found is None:
            raise NotFound(f"There is no account {account!r}.")
    for _ in range(TRIES):
        began = now()
        with storage_errors():
            person = await _person(found.id, also)
            if any(person.named_in(text) for text in _texts(msgspec.structs.asdict(wanted.instruction))):
                raise InvalidInput("The reason and the key stay, so they must not name the person.")
            await _refuse_if_active(person)
            events = await _events_about(person)
        if done := await _erase(wanted, found.id, person, also, events, began):
            return done
    raise Conflict("Something of theirs has just changed, several times. Try again in a moment.")


async def _person(account: int, also: Sequence[str]) -> Person:
    own = (await Account.get(id=account)).merged_into or account
    rows = await Account.filter(Q(id=own) | Q(merged_into=own)).order_by("id")
    ids = [row.id for row in rows]
    named = [set(also), {row.external_id for row in rows}]
    found: set[str] = set()
    for model in (StripeCustomer, Subscription, Invoice, CheckoutSession):
        found |= {str(id) for id in await model.filter(account_id__in=ids).values_list("id", flat=True)}
    paid = Invoice.filter(account_id__in=ids).values_list("payment_intent", "customer")
    found |= {str(each) for row in await paid for each in row if each}
    marks = sorted({text for texts in named for text in texts if text.strip()})
    return Person(ids, sorted(found), marks)


async def _refuse_if_active(person: Person) -> None:
    """Raises Conflict where a subscription runs, or a voucher is open."""
    own = Subscription.filter(account_id__in=person.accounts)
    running = own.exclude(status__in=[*ENDED, "incomplete"]).order_by("id")
    if ids := await running.values_list("id", flat=True):
        raise Conflict(f"Cancel their subscription first: {_listed(ids)}.")
    # Its row has the address of a page that shows their name, and is written again while it is open.
    waiting = Invoice.filter(account_id__in=person.accounts, voucher__isnull=False).order_by("id")
    if ids := await waiting.values_list("id", flat=True):
        raise Conflict(
            f"A voucher of theirs can still be paid, for {_listed(ids)}."
            " Wait until it is paid or has expired, or void the invoice in Stripe."
        )


def _listed(ids: Iterable[Any]) -> str:
    return ", ".join(str(id) for id in ids)


async def _events_about(person: Person, since: datetime = FIRST) -> EventsAbout:
    """The stored events that name the person: all, or those handled since then.

    Raises Conflict where one waits.
    """
    waiting = await StripeEvent.filter(handled_at__isnull=True).values_list("id", flat=True)
    for ids in _portions(waiting, EVENTS_AT_ONCE):
        if named := await _payloads_about(person, StripeEvent.filter(id__in=ids)):
            raise Conflict(f"Events about them wait. Replay or dismiss them first: {', '.join(named[:3])}.")
    found = EventsAbout([], [], [])
    async for rows in _handled_since(since):
        found.payloads.extend(await _payloads_about(person, rows))
        found.errors.extend(await _texts_about(person, rows, "error"))
        found.dismissals.extend(await _texts_about(person, rows, "dismissed_because"))
    return found


async def _handled_since(begin: datetime) -> AsyncIterator[QuerySet[StripeEvent]]:
    """Some at once, as they were handled: reading all of them takes longer than a statement may."""
    more = True
    while more:
        rows = StripeEvent.filter(handled_at__gte=begin)
        ends = rows.order_by("handled_at").offset(EVENTS_AT_ONCE).limit(1)
        if more := bool(found := await ends.values_list("handled_at", flat=True)):
            begin = max(cast(datetime, found[0]), begin + timedelta(microseconds=1))
            rows = rows.filter(handled_at__lt=begin)
        yield rows


async def _payloads_about(person: Person, rows: QuerySet[StripeEvent]) -> list[str]:
    """Those whose payload has one of their ids."""
    texts = [*person.stripe_ids, *(msgspec.json.encode(mark).decode()[1:-1] for mark in person.marks)]
    found: list[str] = []
    for some in _portions(texts, IDS_AT_ONCE):
        about = Q(*(Q(payload__contains=f'"{text}"') for text in some), join_type=Q.OR)
        found += [str(id) for id in await rows.filter(about).values_list("id", flat=True)]
    return found


async def _texts_about(person: Person, rows: QuerySet[StripeEvent], column: str) -> list[str]:
    """Those where a text of ours, or of an operator's, names the person."""
    told = rows.filter(Q(*(Q(**{f"{column}__contains": mark}) for mark in person.marks), join_type=Q.OR))
    return [str(id) for id, text in await told.values_list("id", column) if person.named_in(text)]


@once
async def _erase(
    wanted: Request, account: int, person: Person, also: Sequence[str], early: EventsAbout, began: datetime
) -> Corrected | None:
    """Erase what was found out, where it is still so under the lock of the accounts; else None."""
    async with write_transaction():
        if done := await done_before(wanted):
            return done
        # Those that were merged first, as `merging` locks them: PostgreSQL sorts NULL last.
        rows = await locked(Account.filter(id__in=person.accounts).order_by("merged_into", "id"))
        # A settlement, a new subscription and a merge need this lock: none comes in between from here on.
        if await _person(account, also) != person:
            return None
        await _refuse_if_active(person)
        late = await _events_about(person, began - CLOCKS_DIFFER)
        events = EventsAbout(
            *(list(dict.fromkeys(both[0] + both[1])) for both in zip(early, late, strict=True))
        )
        for row in rows:
            row.external_id = f"erased-{secrets.token_hex(12)}"
            await row.save(update_fields=["external_id"])
        ids = ", ".join(str(row.id) for row in rows)
        await connection().execute_query(_FORGET_ENTRIES.format(ids=ids))
        await connection().execute_query(_FORGET_RESERVATIONS.format(ids=ids))
        timeline = await _forget_payments(person)
        payloads = await _forget_events(events)
        await _forget_outbound(person)
        await _forget_corrections(person, set(events.payloads))
        survivor = next(row for row in rows if row.merged_into is None)
        counts = {"accounts": len(rows), "events": payloads, "timeline": timeline}
        return await record(wanted, survivor, now(), {}, {"account": ERASED}, counts)


async def _forget_payments(person: Person) -> int:
    """Their references on Checkout Sessions, and the timelines. Returns how many entries these had."""
    sessions = CheckoutSession.filter(account_id__in=person.accounts)
    await sessions.update(client_reference=None, return_to=None)
    await CheckoutSession.filter(client_reference__in=person.marks).update(client_reference=None)
    deleted = 0
    for model in (Invoice, CheckoutSession):
        own = Subquery(model.filter(account_id__in=person.accounts).values("id"))
        deleted += await TimelineEntry.filter(invoice__in=own).delete()
    return deleted


async def _forget_events(events: EventsAbout) -> int:
    changed = 0
    for some in _portions(events.payloads, ROWS_AT_ONCE):
        rows = StripeEvent.filter(id__in=some)
        emptied = await rows.filter(handled_at__not_isnull=True).update(payload="", error=None)
        if emptied < len(some):
            raise Conflict("An event about them was reopened meanwhile. Replay or dismiss it first.")
        changed += emptied
        await rows.filter(dismissed_because__not_isnull=True).update(dismissed_because=ERASED)
    for column, named in (("error", events.errors), ("dismissed_because", events.dismissals)):
        for some in _portions(named, ROWS_AT_ONCE):
            told = StripeEvent.filter(id__in=some, **{f"{column}__not_isnull": True})
            await told.update(**{column: ERASED})
    return changed


def _portions(values: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (values[first : first + size] for first in range(0, len(values), size))


async def _forget_outbound(person: Person) -> None:
    """The facts of events for the SaaS's own systems: what is still to be delivered has the balance alone."""
    await OutboundEvent.filter(account_id__in=person.accounts).update(data={})
    own = Subquery(OutboundEvent.filter(account_id__in=person.accounts).values("id"))
    await EventDelivery.filter(event_id__in=own).update(answer=None)
    unclaimed = OutboundEvent.filter(type=OutboundEventType.CHECKOUT_UNCLAIMED.value, account_id__isnull=True)
    names = {*person.stripe_ids, *person.marks}
    for event in await unclaimed:
        if names & set(_texts(event.data)):
            await OutboundEvent.filter(id=event.id).update(data={})


async def _forget_corrections(person: Person, events: set[str]) -> None:
    """What operators wrote about them, and the keys that they chose."""
    own = await Correction.filter(account_id__in=person.accounts).exclude(action=Action.ERASE)
    of_events = await Correction.filter(account_id__isnull=True)
    about = [row for row in of_events if events & set(_texts(row.details)) or person.named_in(row.reason)]
    for row in [*own, *about]:
        row.reason, row.key, row.digest = ERASED, f"erased-{row.id}", ""
        row.details, row.before, row.after = (
            _without(person, each) for each in (row.details, row.before, row.after)
        )
        await row.save()


def _texts(value: Any) -> Iterable[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _without(person: Person, value: Any) -> Any:
    """A JSON value with each text that names the person replaced."""
    if isinstance(value, str):
        return ERASED if person.named_in(value) else value
    if isinstance(value, dict):
        return {name: _without(person, each) for name, each in value.items()}
    return [_without(person, each) for each in value] if isinstance(value, list) else value
