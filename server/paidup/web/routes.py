"""Every route of the application, in the order in which they are tried: those asked most come first."""

from __future__ import annotations

from starlette.routing import BaseRoute

from paidup.web import (
    api,
    balance_api,
    checkout_api,
    checkout_status,
    claims_api,
    corrections_api,
    credits_api,
    entitlements_api,
    event_streams,
    events_api,
    health,
    ledger_api,
    return_page,
    sdk,
    webhooks,
)
from paidup.web.operators import pages as operators
from paidup.web.websocket import endpoint

ROUTES: list[BaseRoute] = [
    *endpoint.ROUTES,
    *webhooks.ROUTES,
    *entitlements_api.ROUTES,
    *credits_api.ROUTES,
    *api.ROUTES,
    *checkout_api.ROUTES,
    *claims_api.ROUTES,
    *checkout_status.ROUTES,
    *ledger_api.ROUTES,
    *balance_api.ROUTES,
    *event_streams.ROUTES,
    *return_page.ROUTES,
    *health.ROUTES,
    *operators.ROUTES,
    *corrections_api.ROUTES,
    *events_api.ROUTES,
    *sdk.ROUTES,
]
