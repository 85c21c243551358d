"""The account, its events and its webhook endpoints."""

from __future__ import annotations

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.objects.base import base


def event(created: int, kind: str, data: Json, api_version: str, request: Json, pending: int) -> Json:
    """A snapshot event."""
    return base("event", "evt", created) | {
        "api_version": api_version,
        "data": data,
        "pending_webhooks": pending,
        "request": request,
        "type": kind,
    }


def webhook_endpoint(created: int, url: str, enabled_events: list[str], api_version: str | None) -> Json:
    """A webhook endpoint. Its secret is shown once, at creation, and stored separately."""
    return base("webhook_endpoint", "we", created) | {
        "api_version": api_version,
        "application": None,
        "description": None,
        "enabled_events": enabled_events,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }


ACCOUNT_ID = "acct_sandbox"


def account(default_currency: str) -> Json:
    """The account behind every key."""
    return {
        "id": ACCOUNT_ID,
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": default_currency,
        "details_submitted": True,
        "email": "sandbox@example.com",
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }
