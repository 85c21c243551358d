"""A shop in Brazil: the packaged plans, sold in reais, and customers who pay by Boleto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paidup.domain.plans_toml import parse_catalogue
from paidup.settings import PACKAGED_PLANS
from tests.support.stripe_sandbox import StripeSide

NEVER = "fill_never@example.com"
"""Stripe's test address of a customer who does not pay: the test decides."""
BOLETO: dict[str, Any] = {
    "type": "boleto",
    "boleto": {"tax_id": "000.000.000-00"},
    "billing_details": {
        "name": "João da Silva",
        "email": NEVER,
        "address": {
            "line1": "1234 Av. Paulista",
            "city": "São Paulo",
            "state": "SP",
            "postal_code": "01310-000",
            "country": "BR",
        },
    },
}


async def plans_in_reais(stripe: StripeSide, folder: Path) -> Path:
    """A plans file whose prices are in reais, with those prices at Stripe."""
    text = PACKAGED_PLANS.read_text().replace('currency = "usd"', 'currency = "brl"')
    path = folder / "plans.toml"
    path.write_text(text.replace("paidup_", "brasil_"))
    await stripe.create_prices(parse_catalogue(path.read_bytes()))
    await stripe.control("calls/reset")
    return path


async def get_boleto(stripe: StripeSide, purchase: Any) -> Any:
    """Confirm the purchase's payment with a Boleto, as the Payment Element does; the intent."""
    return await stripe.confirm_with(purchase["client_secret"], BOLETO)


async def decide(stripe: StripeSide, purchase: Any, outcome: str) -> None:
    """The voucher is paid ("succeeded"), or it expires ("failed")."""
    intent = purchase["client_secret"].partition("_secret_")[0]
    await stripe.control(f"payment_intents/{intent}/decide", {"outcome": outcome})
