"""The settings of Checkout, a part of `Settings`: where customers return to, and what its page offers."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from paidup.domain.checkout_options import CheckoutOptions
from paidup.domain.outbound_settings import OutboundSettings

SESSION_PLACEHOLDER = "{CHECKOUT_SESSION_ID}"
"""What Stripe replaces with the session's id, in the addresses that customers return to."""
RETURN_PATH = "/activate"

# fmt: off
Locale = Literal[
    "auto", "bg", "cs", "da", "de", "el", "en", "en-GB", "es", "es-419", "et", "fi", "fil", "fr",
    "fr-CA", "hi-IN", "hr", "hu", "id", "it", "ja", "ko", "lt", "lv", "ms", "mt", "nb", "nl", "pl",
    "pt", "pt-BR", "ro", "ru", "sk", "sl", "sv", "th", "tr", "vi", "zh", "zh-HK", "zh-TW",
]
# fmt: on
"""Those of stripe.checkout.Session.locale."""


class CheckoutSettings(OutboundSettings, frozen=True, kw_only=True, rename=str.upper):
    """`public_url` is where browsers reach this server."""

    public_url: str = ""
    checkout_return_url: str = ""
    checkout_cancel_url: str = ""
    checkout_promotion_codes: bool = False
    checkout_automatic_tax: bool = False
    checkout_billing_address: bool = False
    checkout_locale: Locale = "auto"
    checkout_top_up_invoices: bool = True
    claim_url: str = ""
    claim_link_days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 30
    claim_by_email: bool = False
    unclaimed_alarm_after_h: Annotated[int, msgspec.Meta(ge=1, le=8760)] = 24

    @property
    def checkout_options(self) -> CheckoutOptions:
        return CheckoutOptions(
            self.checkout_promotion_codes,
            self.checkout_automatic_tax,
            self.checkout_billing_address,
            self.checkout_locale,
            self.checkout_top_up_invoices,
        )


def return_url(settings: CheckoutSettings, own: str) -> str:
    """Where Stripe sends customers back to: CHECKOUT_RETURN_URL, or this server's page (at `own`)."""
    url = settings.checkout_return_url or (settings.public_url or own).rstrip("/") + RETURN_PATH
    if SESSION_PLACEHOLDER in url:
        return url
    address, hash_sign, fragment = url.partition("#")
    separator = "&" if "?" in address else "?"
    return f"{address}{separator}session_id={SESSION_PLACEHOLDER}{hash_sign}{fragment}"


def checkout_problems(settings: CheckoutSettings, livemode: bool) -> list[str]:
    """Addresses that Stripe would refuse. With live keys it takes https alone."""
    given = {
        "PUBLIC_URL": settings.public_url,
        "CHECKOUT_RETURN_URL": settings.checkout_return_url,
        "CHECKOUT_CANCEL_URL": settings.checkout_cancel_url,
        "CLAIM_URL": settings.claim_url,
    }
    problems = [
        f"{name} is not an address such as https://app.example.com{'' if livemode else ' (or http://...)'}"
        for name, url in given.items()
        if url and not is_web_address(url, livemode)
    ]
    if "?" in settings.public_url or "#" in settings.public_url:
        problems.append("PUBLIC_URL has no query and no fragment: paths are appended to it")
    return problems


def is_web_address(url: str, livemode: bool) -> bool:
    """Whether Stripe's page takes it: in live mode https alone, never an app's own scheme."""
    schemes = ("https",) if livemode else ("https", "http")
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname) and url.isascii() and url.isprintable()
