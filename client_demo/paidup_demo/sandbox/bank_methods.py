"""Payment methods other than cards: debits, redirects to a bank's page, vouchers, and Link.

Test account numbers decide what becomes of a payment, as at Stripe. https://docs.stripe.com/testing has them,
and https://docs.stripe.com/payments/payment-methods/payment-method-support which currency each takes. An
account number is never stored, only what it does and its last four digits. Charging is in payments.py,
debits.py and vouchers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from paidup_demo.sandbox import objects
from paidup_demo.sandbox.errors import InvalidRequestError, Json, ParameterError
from paidup_demo.sandbox.forms import require
from paidup_demo.sandbox.state import Store, new_id

MethodType = Literal[
    "card",
    "link",
    "sepa_debit",
    "us_bank_account",
    "ideal",
    "bancontact",
    "amazon_pay",
    "boleto",
    "oxxo",
    "konbini",
]
METHOD_TYPES: tuple[MethodType, ...] = get_args(MethodType)
NAMES: dict[MethodType, str] = {
    "card": "Card",
    "link": "Link",
    "sepa_debit": "SEPA debit",
    "us_bank_account": "US bank account",
    "ideal": "iDEAL",
    "bancontact": "Bancontact",
    "amazon_pay": "Amazon Pay",
    "boleto": "Boleto",
    "oxxo": "OXXO",
    "konbini": "Konbini",
}
CURRENCIES = {
    "amazon_pay": "usd",
    "bancontact": "eur",
    "boleto": "brl",
    "ideal": "eur",
    "konbini": "jpy",
    "oxxo": "mxn",
    "sepa_debit": "eur",
    "us_bank_account": "usd",
}
"""The one currency of each here; cards and Link take all."""
REDIRECTS = ("amazon_pay", "bancontact", "ideal")
"""The customer pays on another page."""
SAVED_AS_DEBIT = ("bancontact", "ideal")
"""Later payments are SEPA debits from the same account."""
DEBITS = ("sepa_debit", "us_bank_account")
"""The outcome is known only days after the payment is confirmed."""
VOUCHERS = ("boleto", "konbini", "oxxo")
"""The customer gets a voucher, and pays it later."""
ONCE_ONLY = ("konbini", "oxxo")
"""Not for subscriptions: https://docs.stripe.com/payments/oxxo and https://docs.stripe.com/payments/konbini"""


@dataclass(frozen=True)
class TestAccount:
    """What a debit of it leads to: `failure` is a failure code; `disputes`: it succeeds, and is disputed.

    `stays`: it stays in processing.
    """

    failure: str | None = None
    disputes: bool = False
    stays: bool = False


_SUCCEEDS = TestAccount()
_IBANS = {
    "AT611904300234573201": _SUCCEEDS,
    "AT321904300235473204": _SUCCEEDS,
    "AT861904300235473202": TestAccount(failure="incorrect_account_holder_name"),
    "AT051904300235473205": TestAccount(failure="incorrect_account_holder_name"),
    "AT591904300235473203": TestAccount(disputes=True),
    "AT981904300002222227": TestAccount(failure="insufficient_funds"),
    "DE89370400440532013000": _SUCCEEDS,
    "DE08370400440532013003": _SUCCEEDS,
    "DE62370400440532013001": TestAccount(failure="incorrect_account_holder_name"),
    "DE78370400440532013004": TestAccount(failure="incorrect_account_holder_name"),
    "DE35370400440532013002": TestAccount(disputes=True),
}
_US_ACCOUNTS = {
    "000123456789": _SUCCEEDS,
    "000111111113": TestAccount(failure="account_closed"),
    "000111111116": TestAccount(failure="no_account"),
    "000222222227": TestAccount(failure="insufficient_funds"),
    "000333333335": TestAccount(failure="debit_not_authorized"),
    "000555555559": TestAccount(disputes=True),
    "000000000009": TestAccount(stays=True),
}
_NAMED_US_ACCOUNTS = {
    "pm_usBankAccount_success": "000123456789",
    "pm_usBankAccount_accountClosed": "000111111113",
    "pm_usBankAccount_noAccount": "000111111116",
    "pm_usBankAccount_insufficientFunds": "000222222227",
    "pm_usBankAccount_debitNotAuthorized": "000333333335",
    "pm_usBankAccount_dispute": "000555555559",
    "pm_usBankAccount_processing": "000000000009",
}
TEST_ROUTING_NUMBER = "110000000"


def usable_types(enabled: list[str], currency: str, recurring: bool = False) -> list[str]:
    """Which of the methods that the account has enabled take this currency: Stripe's dynamic methods."""
    without = ONCE_ONLY if recurring else ()
    return [kind for kind in enabled if CURRENCIES.get(kind, currency) == currency and kind not in without]


def method_from(store: Store, now: int, data: Json) -> Json:
    """A PaymentMethod from `payment_method_data`, or from the parameters of its creation."""
    kind = data["type"]
    if kind == "sepa_debit":
        return _sepa_debit(store, now, data)
    if kind == "us_bank_account":
        return _us_bank_account(store, now, data)
    if kind in VOUCHERS:
        return _voucher(store, now, kind, data)
    shown: Json = {"bank": "ing", "bic": "INGBNL2A"} if kind == "ideal" else {}
    if kind == "link":
        require(data.get("billing_details") or {}, "email")
        shown = {"email": data["billing_details"]["email"], "persistent_token": None}
    return _keep(store, now, kind, shown, data, _SUCCEEDS)


def _voucher(store: Store, now: int, kind: str, data: Json) -> Json:
    """A Boleto names its payer, with their tax id: https://docs.stripe.com/payments/boleto/accept-a-payment"""
    billing, shown = data.get("billing_details") or {}, {}
    require(billing, "name", "email")
    if kind == "boleto":
        require(billing.get("address") or {}, "line1", "city", "state", "postal_code", "country")
        tax_id = str((data.get("boleto") or {}).get("tax_id") or "")
        if sum(letter.isdecimal() for letter in tax_id) not in (11, 14):
            raise ParameterError("The tax ID is invalid.", code="tax_id_invalid", param="boleto[tax_id]")
        shown = {"tax_id": tax_id}
    return _keep(store, now, kind, shown, data, _SUCCEEDS)


def well_known(store: Store, now: int, name: str) -> Json | None:
    """A new PaymentMethod like Stripe's test one of that name (`pm_usBankAccount_success`)."""
    number = _NAMED_US_ACCOUNTS.get(name)
    if number is None:
        return None
    account = {"account_number": number, "routing_number": TEST_ROUTING_NUMBER}
    data = {"us_bank_account": account, "billing_details": {"name": "Jenny Rosen"}}
    return _us_bank_account(store, now, data)


def saved_from_redirect(store: Store, now: int, redirect: Json) -> Json:
    """The SEPA debit of the account that paid by iDEAL or Bancontact, for later payments.

    https://docs.stripe.com/payments/ideal/set-up-payment
    """
    details = _sepa_details("NL39RABO0300065264")
    return _keep(
        store, now, "sepa_debit", details, {"billing_details": redirect["billing_details"]}, _SUCCEEDS
    )


def _sepa_debit(store: Store, now: int, data: Json) -> Json:
    iban = str((data.get("sepa_debit") or {}).get("iban") or "").replace(" ", "").upper()
    billing = data.get("billing_details") or {}
    require(billing, "name", "email")
    if not is_iban(iban):
        raise InvalidRequestError(
            "The IBAN you entered is invalid.", code="invalid_bank_account_iban", param="sepa_debit[iban]"
        )
    account = _IBANS.get(iban, _SUCCEEDS)
    return _keep(store, now, "sepa_debit", _sepa_details(iban), data, account)


def is_iban(iban: str) -> bool:
    """Whether the checksum of ISO 13616 is right."""
    if not 15 <= len(iban) <= 34 or not iban.isalnum() or not iban.isascii():
        return False
    return int("".join(str(int(digit, 36)) for digit in iban[4:] + iban[:4])) % 97 == 1


def _sepa_details(iban: str) -> Json:
    return {
        "bank_code": iban[4:12],
        "branch_code": "",
        "country": iban[:2],
        "fingerprint": new_id("", 16)[1:],
        "generated_from": {"charge": None, "setup_attempt": None},
        "last4": iban[-4:],
    }


def _us_bank_account(store: Store, now: int, data: Json) -> Json:
    given = data.get("us_bank_account") or {}
    number, routing = str(given.get("account_number") or ""), str(given.get("routing_number") or "")
    require(data.get("billing_details") or {}, "name")
    if not number.isdecimal() or len(routing) != 9:
        raise ParameterError("The bank account's numbers are invalid.", param="us_bank_account")
    details = {
        "account_holder_type": given.get("account_holder_type") or "individual",
        "account_type": given.get("account_type") or "checking",
        "bank_name": "STRIPE TEST BANK",
        "financial_connections_account": None,
        "fingerprint": new_id("", 16)[1:],
        "last4": number[-4:],
        "networks": {"preferred": "ach", "supported": ["ach"]},
        "routing_number": routing,
        "status_details": {},
    }
    return _keep(store, now, "us_bank_account", details, data, _US_ACCOUNTS.get(number, _SUCCEEDS))


def _keep(store: Store, now: int, kind: str, details: Json, data: Json, account: TestAccount) -> Json:
    billing = data.get("billing_details") or {}
    method = store.add(objects.payment_method(now, kind, details, billing))
    store.note(method["id"]).update(
        authentication=_step_of(kind),
        attaches=kind not in SAVED_AS_DEBIT,
        decline=None,
        debit={"failure": account.failure, "disputes": account.disputes, "stays": account.stays},
        refund=None,
        set_up=False,
    )
    return method


def _step_of(kind: str) -> str:
    """What the customer has to do after the confirmation."""
    return "voucher" if kind in VOUCHERS else "redirect" if kind in REDIRECTS else "never"
