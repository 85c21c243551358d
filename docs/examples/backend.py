"""A SaaS's backend that has Paidup beside it: its code at each step."""

import os
from typing import Any

from paidup.client import InsufficientCreditsError, Paidup, page_token, signed_with

SECRET = os.environ["AUTH_JWT_SECRET"]  # the server has the same
paidup = Paidup(os.environ["PAIDUP_URL"], signed_with(SECRET))


def page_settings(user: str) -> dict[str, str]:
    """For the page's own calls and sockets, as this user, for ten minutes. It cannot spend with them."""
    return {"baseUrl": os.environ["PAIDUP_URL"], "token": page_token(SECRET, user)}


def make_report(user: str, number: int) -> tuple[int, dict[str, Any]]:
    """The key names what is paid for: pressing twice, or trying again, pays once."""
    try:
        spent = paidup.spend(user, 5, key=f"report-{number}")
    except InsufficientCreditsError as error:
        if error.activating is None:
            return 402, {"show": "plans"}
        waiting_for = error.activating  # a payment is in progress: show it, not the plans
        return 402, {"show": "activating", "invoice": waiting_for.invoice, "ticket": waiting_for.ticket}
    return 200, {"report": "...", "balance": spent.balance}


def choose_plan(user: str, plan: str) -> dict[str, Any]:
    """The page passes client_secret to Stripe.js, then invoice and ticket to `activate()`."""
    purchase = paidup.subscribe(user, plan)
    return {
        "client_secret": purchase.client_secret,
        "invoice": purchase.invoice,
        "ticket": purchase.ticket,
    }


def translate(user: str, job: str, pages: list[str]) -> int:
    """Work whose cost is known only afterwards: reserve the most, commit what it was."""
    paidup.reserve(user, 3 * len(pages), key=job, expires_in_s=3600)
    try:
        cost = sum(bool(page) for page in pages)  # here you do the work
    except Exception:
        paidup.release(user, key=job)  # nothing was used; without this it comes back after an hour
        raise
    return paidup.commit(user, cost, key=job).balance
