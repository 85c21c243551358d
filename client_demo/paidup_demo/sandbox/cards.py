"""Stripe's test cards: what each number does, and the payment methods made from them.

Card numbers are validated here and charged in payments.py. A number is never stored, only its behaviour
and last four digits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from paidup_demo.sandbox import objects
from paidup_demo.sandbox.errors import CardError, InvalidRequestError, Json
from paidup_demo.sandbox.state import Store

Authentication = Literal["never", "unless_set_up", "always"]

# decline code -> (error code, message)
DECLINES: dict[str, tuple[str, str]] = {
    "generic_decline": ("card_declined", "Your card was declined."),
    "insufficient_funds": ("card_declined", "Your card has insufficient funds."),
    "lost_card": ("card_declined", "Your card was declined."),
    "stolen_card": ("card_declined", "Your card was declined."),
    "expired_card": ("expired_card", "Your card has expired."),
    "incorrect_cvc": ("incorrect_cvc", "Your card's security code is incorrect."),
    "processing_error": (
        "processing_error",
        "An error occurred while processing your card. Try again in a little bit.",
    ),
    "authentication_required": (
        "authentication_required",
        "Your card was declined. This transaction requires authentication.",
    ),
}


@dataclass(frozen=True)
class Behaviour:
    """What a card number does. `decline`: a key of DECLINES; `attaches`: it can still be saved;
    `refund`: the later outcome of a refund, if it is not immediate.
    """

    number: str
    authentication: Authentication = "never"
    decline: str | None = None
    attaches: bool = True
    refund: Literal["pending", "fails"] | None = None


def _refusing(number: str, decline: str) -> Behaviour:
    return Behaviour(number, decline=decline, attaches=False)


_BEHAVIOURS: dict[str, Behaviour] = {
    "visa": Behaviour("4242424242424242"),
    "visa_debit": Behaviour("4000056655665556"),
    "mastercard": Behaviour("5555555555554444"),
    "amex": Behaviour("378282246310005"),
    "authenticationRequired": Behaviour("4000002760003184", "always"),
    "authenticationRequiredOnSetup": Behaviour("4000002500003155", "unless_set_up"),
    "authenticationRequiredChargeDeclinedInsufficientFunds": Behaviour(
        "4000008260003178", "always", "insufficient_funds"
    ),
    "threeDSecure2Required": Behaviour("4000000000003220", "always"),
    "threeDSecureRequired": Behaviour("4000000000003063", "always"),
    "threeDSecureRequiredChargeDeclined": Behaviour("4000008400001629", "always", "generic_decline"),
    "chargeCustomerFail": Behaviour("4000000000000341", decline="generic_decline"),
    "pendingRefund": Behaviour("4000000000007726", refund="pending"),
    "refundFail": Behaviour("4000000000005126", refund="fails"),
    "chargeDeclined": _refusing("4000000000000002", "generic_decline"),
    "chargeDeclinedInsufficientFunds": _refusing("4000000000009995", "insufficient_funds"),
    "chargeDeclinedLostCard": _refusing("4000000000009987", "lost_card"),
    "chargeDeclinedStolenCard": _refusing("4000000000009979", "stolen_card"),
    "chargeDeclinedExpiredCard": _refusing("4000000000000069", "expired_card"),
    "chargeDeclinedIncorrectCvc": _refusing("4000000000000127", "incorrect_cvc"),
    "chargeDeclinedProcessingError": _refusing("4000000000000119", "processing_error"),
}
_BY_NUMBER = {card.number: card for card in _BEHAVIOURS.values()}

WALLETS = {"apple_pay": "Apple Pay", "google_pay": "Google Pay"}
"""Their cards come as tokens, whose names here are the sandbox's own: `tok_apple_pay`."""
CARD_ERRORS = {
    "incorrect_number": "Your card number is incorrect.",
    "invalid_expiry_month": "Your card's expiration month is invalid.",
    "invalid_expiry_year": "Your card's expiration year is invalid.",
    "invalid_cvc": "Your card's security code is invalid.",
}


def decline_fields(decline: str) -> Json:
    """The members of a card_error for this decline code."""
    code, message = DECLINES[decline]
    return {"type": "card_error", "code": code, "decline_code": decline, "message": message}


def well_known(name: str) -> Behaviour | None:
    """The card behind `pm_card_visa`, `pm_card_visa_chargeDeclined` and the like."""
    short = name.removeprefix("pm_card_")
    return _BEHAVIOURS.get(short) or _BEHAVIOURS.get(short.removeprefix("visa_"))


def passes_luhn(number: str) -> bool:
    """Whether the card number has a valid checksum."""
    total = 0
    for position, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def brand_of(number: str) -> str:
    """The card network, from the first digits."""
    if number[:2] in ("34", "37"):
        return "amex"
    if number[:2] in ("51", "52", "53", "54", "55") or 2221 <= int(number[:4]) <= 2720:
        return "mastercard"
    return "visa" if number[0] == "4" else "discover" if number[0] == "6" else "unknown"


def typed_card(card: Json) -> tuple[Behaviour, Json]:
    """The behaviour and display data of an entered card; raises CardError if it is invalid."""
    number = str(card.get("number") or "").replace(" ", "")
    if not (12 <= len(number) <= 19 and number.isdecimal() and passes_luhn(number)):
        raise _typo("incorrect_number", "number")
    month, year = card.get("exp_month") or 0, card.get("exp_year") or 0
    year += 2000 if 0 < year < 100 else 0
    today = datetime.fromtimestamp(time.time(), UTC)
    if not 1 <= month <= 12:
        raise _typo("invalid_expiry_month", "exp_month")
    if not (today.year, today.month) <= (year, month) <= (today.year + 50, 12):
        raise _typo("invalid_expiry_year", "exp_year")
    cvc = card.get("cvc")
    if cvc is not None and not (cvc.isdecimal() and len(cvc) in (3, 4)):
        raise _typo("invalid_cvc", "cvc")
    return _BY_NUMBER.get(number, Behaviour(number)), face(number, month, year)


def _typo(code: str, param: str) -> CardError:
    return CardError(CARD_ERRORS[code], code=code, param=param)


def face(number: str, month: int = 12, year: int = 2034) -> Json:
    """A card's data as shown in a PaymentMethod."""
    return {
        "brand": brand_of(number),
        "country": "US",
        "exp_month": month,
        "exp_year": year,
        "funding": "credit",
        "last4": number[-4:],
    }


def make_method(store: Store, now: int, behaviour: Behaviour, card: Json, billing_details: Json) -> Json:
    """Store a PaymentMethod with this behaviour."""
    method = store.add(objects.payment_method(now, "card", objects.card(card), billing_details))
    store.note(method["id"]).update(
        authentication=behaviour.authentication,
        decline=behaviour.decline,
        attaches=behaviour.attaches,
        set_up=False,
        refund=behaviour.refund,
    )
    return method


def method_from(store: Store, now: int, data: Json) -> Json:
    """A PaymentMethod from the number of a card, or from the token of a wallet."""
    given, billing = data.get("card") or {}, data.get("billing_details") or {}
    if given.get("token"):
        return _from_wallet(store, now, str(given["token"]), billing)
    behaviour, card = typed_card(given)
    return make_method(store, now, behaviour, card, billing)


def _from_wallet(store: Store, now: int, token: str, billing: Json) -> Json:
    """Apple Pay and Google Pay give the token of a card: `PaymentMethod.Card.Wallet` in the SDK."""
    wallet = token.removeprefix("tok_")
    if wallet not in WALLETS:
        raise InvalidRequestError(f"No such token: '{token}'", code="resource_missing", param="card[token]")
    behaviour = _BEHAVIOURS["visa"]
    shown = {"dynamic_last4": behaviour.number[-4:], "type": wallet, wallet: {}}
    return make_method(store, now, behaviour, face(behaviour.number) | {"wallet": shown}, billing)


def well_known_method(store: Store, now: int, name: str) -> Json | None:
    """A new PaymentMethod like Stripe's test one of that name."""
    behaviour = well_known(name) if name.startswith("pm_card_") else None
    return make_method(store, now, behaviour, face(behaviour.number), {}) if behaviour else None
