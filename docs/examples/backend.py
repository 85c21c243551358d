"""The backend of a SaaS that runs Paidup as a service, step by step."""

import os
from typing import Any

from paidup.client import InsufficientCreditsError, Paidup, page_token, signed_with

SECRET = os.environ["AUTH_JWT_SECRET"]  # the server has the same
paidup = Paidup(os.environ["PAIDUP_URL"], signed_with(SECRET))


def page_settings(user: str) -> dict[str, str]:
    """Settings for the user's page. Its token is valid for ten minutes and cannot spend credits."""
    return {"baseUrl": os.environ["PAIDUP_URL"], "token": page_token(SECRET, user)}


def make_report(user: str, number: int) -> tuple[int, dict[str, Any]]:
    """The key identifies the report, so a double click or a retry pays once."""
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
    """Work of unknown cost: reserve the maximum, then commit the actual cost."""
    paidup.reserve(user, 3 * len(pages), key=job, expires_in_s=3600)
    try:
        cost = sum(bool(page) for page in pages)  # do the work here
    except Exception:
        paidup.release(user, key=job)  # returns the credits now, not after an hour
        raise
    return paidup.commit(user, cost, key=job).balance
