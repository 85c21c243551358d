"""The operators' API: what `paidup grant`, `revoke`, `adjust` and the others do, over HTTP.

Needs OPERATOR_TOKEN as a bearer token; while it is empty, the API does not exist (404). It takes no password,
which a browser would add to a request that another site's page makes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.accounts import find_account
from paidup.db.connection import storage_errors
from paidup.domain.catalog import AfterRefund
from paidup.errors import InvalidInput, NotFound
from paidup.operations.actions import OperatorActions
from paidup.operations.audit_log import Corrected, Instruction, list_corrections
from paidup.operations.corrections import Gift, PaidBy
from paidup.web.dependencies import get_services
from paidup.web.http import PRINTABLE, json_response, read_json
from paidup.web.operator_token import Handler, for_operators

Text = Annotated[str, msgspec.Meta(pattern=PRINTABLE, max_length=200)]
Reason = Annotated[str, msgspec.Meta(pattern=PRINTABLE, max_length=2000)]
Id = Annotated[str, msgspec.Meta(pattern=PRINTABLE, max_length=255)]
Given = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Adjusted = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Events = Annotated[list[Id], msgspec.Meta(min_length=1, max_length=100)]


class Instructed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who decided it, why, and the idempotency key: required in each request."""

    by: Text
    reason: Reason
    key: Text

    @property
    def instruction(self) -> Instruction:
        return Instruction(self.by, self.reason, self.key)


class GrantBody(Instructed, frozen=True, kw_only=True):
    """Either `credits` (of a `unit`), or an `invoice` that was paid outside of Stripe, with `paid_by`."""

    account: Text
    credits: Given | None = None
    unit: Text | None = None
    plan: Text | None = None
    expires_at: Moment | None = None
    invoice: Id | None = None
    paid_by: PaidBy | None = None


class RevokeBody(Instructed, frozen=True, kw_only=True):
    granted: Text
    spent: AfterRefund = AfterRefund.DEBT


class AdjustBody(Instructed, frozen=True, kw_only=True):
    account: Text
    credits: Adjusted
    allow_debt: bool = False
    unit: Text | None = None


class LinkBody(Instructed, frozen=True, kw_only=True):
    customer: Id
    account: Text


class MergeBody(Instructed, frozen=True, kw_only=True):
    into: Text
    merged: Text


class EraseBody(Instructed, frozen=True, kw_only=True):
    account: Text
    also: Annotated[list[Id], msgspec.Meta(max_length=20)] = []


class EventsBody(Instructed, frozen=True, kw_only=True):
    events: Events


async def _grant(actions: OperatorActions, body: GrantBody) -> Corrected:
    if body.invoice is None:
        if body.credits is None:
            raise InvalidInput("Please send either `credits` or `invoice`.")
        gift = Gift(body.credits, body.plan, body.expires_at, body.paid_by)
        return await actions.grant(body.account, gift, body.instruction, body.unit)
    if body.paid_by is None or body.credits or body.plan or body.expires_at or body.unit:
        raise InvalidInput("An `invoice` needs `paid_by` alone: its lines say what it gives.")
    return await actions.grant_invoice(body.account, body.invoice, body.paid_by, body.instruction)


async def _revoke(actions: OperatorActions, body: RevokeBody) -> Corrected:
    return await actions.revoke(body.granted, body.instruction, body.spent)


async def _adjust(actions: OperatorActions, body: AdjustBody) -> Corrected:
    return await actions.adjust(body.account, body.credits, body.instruction, body.allow_debt, body.unit)


async def _link(actions: OperatorActions, body: LinkBody) -> Corrected:
    return await actions.link_customer(body.customer, body.account, body.instruction)


async def _unlink(actions: OperatorActions, body: LinkBody) -> Corrected:
    return await actions.unlink_customer(body.customer, body.account, body.instruction)


async def _merge(actions: OperatorActions, body: MergeBody) -> Corrected:
    return await actions.merge_accounts(body.into, body.merged, body.instruction)


async def _erase(actions: OperatorActions, body: EraseBody) -> Corrected:
    return await actions.erase(body.account, body.instruction, body.also)


async def _dismiss(actions: OperatorActions, body: EventsBody) -> Corrected:
    return await actions.dismiss(body.events, body.instruction)


async def _reopen(actions: OperatorActions, body: EventsBody) -> Corrected:
    return await actions.reopen(body.events, body.instruction)


async def corrections(request: Request) -> Response:
    """GET /operators/api/corrections: the newest of an account, `?account=...`, or of all."""
    named = request.query_params.get("account", "")
    if len(named) > 200 or "\0" in named:
        raise NotFound("There is no such account.")
    with storage_errors():
        account = await find_account(named) if named else None
    if named and account is None:
        raise NotFound(f"There is no account {named!r}.")
    return json_response({"corrections": await list_corrections(account)})


B = TypeVar("B", bound=Instructed)


def _action(body_type: type[B], act: Callable[[OperatorActions, B], Awaitable[Corrected]]) -> Handler:
    """A handler that reads a body, acts, and answers with the row of the audit log."""

    async def handle(request: Request) -> Response:
        services = get_services(request)
        actions = OperatorActions(
            services.catalogue, services.verification, services.settlement, services.clock
        )
        return json_response(await act(actions, await read_json(request, body_type)))

    return for_operators(handle)


_ACTIONS = {
    "grant": _action(GrantBody, _grant),
    "revoke": _action(RevokeBody, _revoke),
    "adjust": _action(AdjustBody, _adjust),
    "link-customer": _action(LinkBody, _link),
    "unlink-customer": _action(LinkBody, _unlink),
    "merge-accounts": _action(MergeBody, _merge),
    "erase": _action(EraseBody, _erase),
    "dismiss": _action(EventsBody, _dismiss),
    "reopen": _action(EventsBody, _reopen),
}
ROUTES = [
    *(Route(f"/operators/api/{name}", handler, methods=["POST"]) for name, handler in _ACTIONS.items()),
    Route("/operators/api/corrections", for_operators(corrections), methods=["GET"]),
]
