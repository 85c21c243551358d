"""The HTTP API for credits: balance, spending and reservations. docs/api.md describes it.

Each handler authenticates, validates, does one thing in one transaction, and publishes the new
balance to the account's open pages. Moving credits requires a token with the backend scope. No
handler grants credits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.credits.ledger import ends_at
from paidup.credits.requested_moves import Commit, Moved, Release, Reserve, Spend
from paidup.credits.shown_grants import MOST, expiring, first_grants
from paidup.db.models import Account, CreditGrant
from paidup.db.unit_accounts import AnyAccount
from paidup.domain.units import DEFAULT_UNIT, MAX_UNIT_NAME
from paidup.errors import InsufficientCredits, InvalidInput, KeyMismatch
from paidup.services import Services
from paidup.web.auth import Scope
from paidup.web.current_credits import current_credits
from paidup.web.dependencies import (
    current_account,
    get_services,
    identified,
    pending_activation,
    renewing,
)
from paidup.web.entitlements_api import balance_parts, units_apart
from paidup.web.http import PRINTABLE, json_response, read_json
from paidup.web.problems import problem_of

Key = Annotated[str, msgspec.Meta(pattern=PRINTABLE, max_length=200)]
MAX_EXPIRING = 24
"""How many dates `expiring` has."""
HEADER_KEY = r"[ -~]{1,200}"
Reason = Annotated[str, msgspec.Meta(pattern=PRINTABLE, max_length=200)]
Credits = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Unit = Annotated[str, msgspec.Meta(max_length=MAX_UNIT_NAME)]


class SpendBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is the caller's idempotency key: repeated requests with it spend once.

    It may be in the header `Idempotency-Key` instead. `reason` is shown in the customer's ledger. `unit`: one
    that the plans file names; the default one where it is absent.
    """

    credits: Credits
    key: Key | None = None
    reason: Reason | None = None
    unit: Unit | None = None


class ReserveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is the idempotency key and identifies the reservation afterwards. `unit` as in a spend."""

    credits: Credits
    key: Key | None = None
    unit: Unit | None = None
    expires_in_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 900


class CommitBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    credits: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    key: Key | None = None
    reason: Reason | None = None


class ReleaseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Key | None = None


async def credits(request: Request) -> Response:
    """GET /api/credits: the balance and its parts, the first live grants, what expires, what is under way."""
    services = get_services(request)
    account, grants, activating, renewal = await current_credits(services, await identified(request))
    others = units_apart(account, services.catalogue)
    of_default = [grant for grant in grants if grant.unit == DEFAULT_UNIT]
    if len(of_default) < len(grants) > MOST:  # some of them may come after others' first
        of_default = await first_grants(account.id, DEFAULT_UNIT)
    of_default = of_default[:MOST]
    ends = _ends(of_default)
    end, first = min(ends, key=itemgetter(0), default=(None, None))
    return json_response(
        {
            **await _parts(account, grants),
            "grants": [
                {
                    "invoice": grant.invoice_id,
                    "plan": grant.plan,
                    "credits": grant.credits,
                    "remaining": grant.remaining,
                    "expires_at": grant.expires_at,
                    "usable_until": ends_at(grant),
                }
                for grant in of_default
            ],
            "next_expiry": first and {"at": end, "credits": first.remaining},
            "activating": activating,
            "renewing": renewal,
            **(
                {"units": {unit: await _parts(own, grants) for unit, own in others.items()}} if others else {}
            ),
        }
    )


async def _parts(account: AnyAccount, grants: Sequence[CreditGrant]) -> dict[str, Any]:
    """The balance of one unit, its parts, and what expires of it."""
    if len(grants) > MOST:  # there may be more than these
        ends = await expiring(account, MAX_EXPIRING)
    else:
        ends = _expiring(_ends(grant for grant in grants if grant.unit == account.unit))
    return {
        "balance": account.balance,
        **msgspec.structs.asdict(balance_parts(account)),
        "expiring": [{"at": at, "credits": credits} for at, credits in ends],
    }


def _ends(grants: Iterable[CreditGrant]) -> list[tuple[datetime, CreditGrant]]:
    return [(end, grant) for grant in grants if (end := ends_at(grant))]


def _expiring(ends: Iterable[tuple[datetime, CreditGrant]]) -> list[tuple[datetime, int]]:
    """What expires if it is not spent, and when, soonest first."""
    credits: Counter[datetime] = Counter()
    for end, grant in ends:
        credits[end] += grant.remaining
    return sorted(credits.items())[:MAX_EXPIRING]


async def spend(request: Request) -> Response:
    """POST /api/credits/spend: spend credits, once per key. A 402 includes the payment in progress."""
    account = await current_account(request, Scope.BACKEND)
    body = await read_json(request, SpendBody)
    key, services = _key(request, body.key), get_services(request)
    unit = services.catalogue.unit(body.unit)
    check_credit_limit(services, body.credits)
    asked = Spend(account.id, unit, body.credits, key, services.clock(), body.reason or "")
    try:
        moved = await services.credit_moves(asked)
    except InsufficientCredits as error:
        return await _insufficient(request, account, error)
    return _moved(request, moved)


async def reserve(request: Request) -> Response:
    """POST /api/credits/reserve: reserve credits, once per key. Refused like a spend."""
    account = await current_account(request, Scope.BACKEND)
    body = await read_json(request, ReserveBody)
    key, services = _key(request, body.key), get_services(request)
    unit = services.catalogue.unit(body.unit)
    check_credit_limit(services, body.credits)
    at = services.clock()
    expires_at = at + timedelta(seconds=body.expires_in_s)
    try:
        moved = await services.credit_moves(Reserve(account.id, unit, body.credits, key, expires_at, at))
    except InsufficientCredits as error:
        return await _insufficient(request, account, error)
    return _moved(request, moved, 201 if moved.changed else 200)


async def commit(request: Request) -> Response:
    """POST /api/credits/commit: spend part of a reservation and return the rest to the balance."""
    account = await current_account(request, Scope.BACKEND)
    body = await read_json(request, CommitBody)
    key, services = _key(request, body.key), get_services(request)
    asked = Commit(account.id, key, body.credits, services.clock(), body.reason or "")
    return _moved(request, await services.credit_moves(asked))


async def release(request: Request) -> Response:
    """POST /api/credits/release: return the whole reservation to the balance."""
    account = await current_account(request, Scope.BACKEND)
    body = await read_json(request, ReleaseBody, default=ReleaseBody())
    key, services = _key(request, body.key), get_services(request)
    return _moved(request, await services.credit_moves(Release(account.id, key, services.clock())))


def _moved(request: Request, moved: Moved, status: int = 200) -> Response:
    """The response: `unit` is in it where the plans file names several."""
    catalogue, result = get_services(request).catalogue, moved.result
    named = catalogue.unit_name(result.unit or DEFAULT_UNIT) if catalogue.named_units else msgspec.UNSET
    return json_response(msgspec.structs.replace(result, unit=named), status)


def _key(request: Request, in_body: str | None) -> str:
    """The idempotency key: the body's, or the header's. Raises InvalidInput, or KeyMismatch for two."""
    given = {key for key in (in_body, *request.headers.getlist("idempotency-key")) if key is not None}
    if len(given) > 1:
        raise KeyMismatch
    if not given:
        raise InvalidInput("A `key` is required, in the body or in the header Idempotency-Key.")
    key = given.pop()
    if in_body is None and not re.fullmatch(HEADER_KEY, key):
        # Other bytes have no agreed meaning in a header, and would be another key than in a body.
        raise InvalidInput("Idempotency-Key: 1 to 200 printable ASCII characters; or send `key` in the body.")
    return key


def check_credit_limit(services: Services, credits: int) -> None:
    """Raises InvalidInput beyond MAX_CREDITS_PER_REQUEST."""
    limit = services.settings.max_credits_per_request
    if credits > limit:
        raise InvalidInput(f"At most {limit} credits can be spent or reserved at once.")


async def _insufficient(request: Request, account: Account, error: InsufficientCredits) -> Response:
    # A customer who has just paid needs to see that the payment is being activated.
    activating = await pending_activation(get_services(request), account)
    renewal = await renewing(get_services(request), account)
    catalogue = get_services(request).catalogue
    return problem_of(
        error,
        balance=error.balance,
        needed=error.needed,
        activating=activating,
        renewing=renewal,
        reason=renewal and renewal.reason,
        **({"unit": catalogue.unit_name(error.unit)} if catalogue.named_units else {}),
    )


ROUTES = [
    Route("/api/credits", credits, methods=["GET"]),
    Route("/api/credits/spend", spend, methods=["POST"]),
    Route("/api/credits/reserve", reserve, methods=["POST"]),
    Route("/api/credits/commit", commit, methods=["POST"]),
    Route("/api/credits/release", release, methods=["POST"]),
]
