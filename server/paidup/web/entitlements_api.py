"""GET /api/entitlements: what the customer may use now, from one row. docs/entitlements.md describes it."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.models import Account
from paidup.db.unit_accounts import AnyAccount, in_unit
from paidup.domain.catalog import Catalogue, Limit
from paidup.domain.entitlements import Standing, rights_of
from paidup.payments.entitlements import standing
from paidup.web.dependencies import current_account, get_services

REVALIDATE = "private, no-cache"
"""A cache keeps it for this customer, and asks each time whether it is still true."""


class BalanceParts(msgspec.Struct, frozen=True):
    """`available` may be spent; `held` is reserved; `debt` is owed. `low_balance`: see the plans file."""

    available: int
    held: int
    debt: int
    low_balance: int | None


class BalanceByUnit(BalanceParts, frozen=True):
    """The same of the default unit. `units`: of the others, where the plans file names several."""

    units: dict[str, BalanceParts] | msgspec.UnsetType = msgspec.UNSET


class CurrentEntitlements(msgspec.Struct, frozen=True):
    """What the customer may use. `plan` is that of the newest subscription in good standing."""

    plan: str | None
    plans: tuple[str, ...]
    status: str | None
    quantity: int
    features: tuple[str, ...]
    limits: dict[str, Limit]
    balance: BalanceByUnit
    renews_at: datetime | None
    cancel_at: datetime | None
    version: int


def balance_parts(account: AnyAccount) -> BalanceParts:
    return BalanceParts(
        available=max(0, account.balance),
        held=account.held,
        debt=max(0, -account.balance),
        low_balance=account.low_balance,
    )


def units_apart(account: Account, catalogue: Catalogue) -> dict[str, AnyAccount]:
    """The account in each unit that the plans file names besides the default one."""
    return {unit: in_unit(account, unit) for unit in catalogue.units[1:]}


async def entitlements(request: Request) -> Response:
    """GET /api/entitlements: plan, features, limits and balance; 304 where the caller has them already."""
    account = await current_account(request)
    answer = _entitlements(account, await standing(account), get_services(request).catalogue)
    body = msgspec.json.encode(answer)
    headers = {"Cache-Control": REVALIDATE, "ETag": _etag(account, body), "Vary": "Authorization, Cookie"}
    if _names(request.headers.getlist("if-none-match"), headers["ETag"]):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type="application/json")


def _entitlements(account: Account, now_has: Standing, catalogue: Catalogue) -> CurrentEntitlements:
    rights = rights_of(now_has.plans, catalogue)
    others = {unit: balance_parts(own) for unit, own in units_apart(account, catalogue).items()}
    return CurrentEntitlements(
        plan=now_has.plan,
        plans=now_has.plans,
        status=now_has.status,
        quantity=now_has.quantity,
        features=rights.features,
        limits=rights.limits,
        balance=BalanceByUnit(
            **msgspec.structs.asdict(balance_parts(account)), units=others or msgspec.UNSET
        ),
        renews_at=now_has.renews_at,
        cancel_at=now_has.cancel_at,
        version=account.version,
    )


def _etag(account: Account, body: bytes) -> str:
    # The account as well: two customers of one browser may have the same rights.
    return f'"{blake2b(body, digest_size=12, salt=account.id.to_bytes(16, "big")).hexdigest()}"'


def _names(given: list[str], etag: str) -> bool:
    """Whether If-None-Match names `etag`, or any. RFC 9110, 13.1.2: the comparison is weak."""
    named = [each.strip().removeprefix("W/") for header in given for each in header.split(",")]
    return etag in named or "*" in named


ROUTES = [Route("/api/entitlements", entitlements, methods=["GET"])]
