"""Vouchers: the customer gets one, and pays it later at a bank or in a shop: Boleto, OXXO, Konbini.

Its PaymentIntent requires action meanwhile, until it has succeeded, or the voucher has expired. The e-mail
address decides which, as at Stripe: https://docs.stripe.com/payments/boleto/accept-a-payment#test-integration.
Stripe documents no charge before the payment, so there is none here. The hosted page is voucher_page.py, what
becomes of it voucher_outcomes.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from paidup_demo.sandbox.bank_methods import VOUCHERS
from paidup_demo.sandbox.clock import DAY_S
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World

EXPIRES_AFTER_DAYS = 3
"""Stripe's default for all of them; it ends with the day, there."""
ZONES = {"boleto": -3, "oxxo": -6, "konbini": 9}
"""Hours from UTC: São Paulo, Mexico City, Japan."""
SOON_S = 180
"""What happens "after about 3 minutes", by the sandbox's clock."""
AT_ONCE_MS = 500
"""What happens "within several seconds", on the wall's clock."""


class _Fate(NamedTuple):
    """What the address says. `after_s` None: when it expires. `expires_s`: then it expires earlier."""

    paid: bool
    after_s: int | None
    expires_s: int | None = None


_FATES = {
    "succeed_immediately": _Fate(True, 0),
    "expire_immediately": _Fate(False, 0, 0),
    "expire_with_delay": _Fate(False, SOON_S, SOON_S),
    "fill_never": _Fate(False, None),
}
_DEFAULT = _Fate(True, SOON_S)


def next_action(world: World, intent: Json, method: Json, origin: str) -> Json:
    """Make a voucher: what the PaymentIntent shows of it. Decides when it is paid, or expires."""
    kind, now = method["type"], world.now()
    fate = _fate(method["billing_details"]["email"] or "")
    expires_at = _end_of_day(now, kind) if fate.expires_s is None else now + fate.expires_s
    decided_at = expires_at if fate.after_s is None else now + fate.after_s
    world.store.note(intent["id"])["voucher"] = {"decided_at": decided_at, "paid": fate.paid}
    if fate.after_s == 0:
        world.agenda.after(AT_ONCE_MS, "decide_voucher", intent["id"])
    shown: Json = {"hosted_voucher_url": f"{origin}/voucher/{intent['id']}"}
    if kind == "boleto":
        shown |= {
            "expires_at": expires_at,
            "number": "0101" * 12,
            "pdf": f"{shown['hosted_voucher_url']}/pdf",
        }
    elif kind == "oxxo":
        shown |= {"expires_after": expires_at, "number": "12345678901234657890123456789012"}
    else:
        code = {"confirmation_number": "12345678901", "payment_code": "123456"}
        stores = ("familymart", "lawson", "ministop", "seicomart")
        shown |= {"expires_at": expires_at, "stores": {store: dict(code) for store in stores}}
    name = f"{kind}_display_details"
    return {"type": name, name: shown}


def shown_in(intent: Json) -> Json | None:
    """What the intent shows of the voucher that it waits for."""
    action = intent["next_action"] or {}
    found: Json | None = action.get(str(action.get("type"))) if is_voucher(action) else None
    return found


def is_voucher(action: Json) -> bool:
    """Whether this `next_action` is one."""
    return str(action.get("type", "")).removesuffix("_display_details") in VOUCHERS


def expires_at(shown: Json) -> int:
    """Until when it can be paid; OXXO calls it otherwise."""
    return int(shown.get("expires_at") or shown["expires_after"])


def decided_at(world: World, intent: Json) -> int | None:
    """When it is paid or expires; None where no voucher is waiting."""
    found = world.store.note(intent["id"]).get("voucher")
    return int(found["decided_at"]) if found and shown_in(intent) else None


def _fate(email: str) -> _Fate:
    user = email.partition("@")[0]
    return next((fate for name, fate in _FATES.items() if user.endswith(name)), _DEFAULT)


def _end_of_day(now: int, kind: str) -> int:
    zone = timezone(timedelta(hours=ZONES[kind]))
    day = datetime.fromtimestamp(now + EXPIRES_AFTER_DAYS * DAY_S, UTC).astimezone(zone)
    return int(day.replace(hour=23, minute=59, second=59, microsecond=0).timestamp())
