"""The calls about events and webhook endpoints. delivery.py sends the webhooks."""

from __future__ import annotations

from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import retriever
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import BOOLEAN, METADATA, TEXT, Shape, require
from paidup_demo.sandbox.old_shape import event_at
from paidup_demo.sandbox.pages import PAGING, PAGING_BY_DATE, page
from paidup_demo.sandbox.settings import API_VERSION
from paidup_demo.sandbox.subscriptions import merged_metadata

ENDPOINT_UPDATE: Shape = {
    "description": TEXT,
    "disabled": BOOLEAN,
    "enabled_events": [TEXT],
    "metadata": METADATA,
    "url": TEXT,
}
ENDPOINT: Shape = {
    "api_version": TEXT,
    "connect": BOOLEAN,
    "description": TEXT,
    "enabled_events": [TEXT],
    "metadata": METADATA,
    "url": TEXT,
}
MAX_TYPES = 20


def list_events(call: Call) -> Json:
    """GET /v1/events. `delivery_success=false`: at least one endpoint has not answered 2xx."""
    params = call.params
    patterns = params.get("types") or ([params["type"]] if params.get("type") else [])
    if len(patterns) > MAX_TYPES:
        raise InvalidRequestError("Array must have at most 20 elements.", param="types")
    success = params.get("delivery_success")

    def keep(row: Json) -> bool:
        return (not patterns or any(fnmatchcase(row["type"], p) for p in patterns)) and (
            success is None or (row["pending_webhooks"] == 0) == success
        )

    found = page(call.url, call.world.store.newest("event"), params, keep)
    return found | {"data": [_at_the_accounts_version(call, event) for event in found["data"]]}


def retrieve_event(call: Call) -> Json:
    """GET /v1/events/{id}"""
    return _at_the_accounts_version(call, call.named("event"))


def _at_the_accounts_version(call: Call, event: Json) -> Json:
    """As Stripe renders events here, whatever the version of the request: https://docs.stripe.com/api/events"""
    version = call.world.conditions.account_api_version or API_VERSION
    return event_at(call.world.store, event, version)


def create_endpoint(call: Call) -> Json:
    """POST /v1/webhook_endpoints: the only answer that shows the secret"""
    params, world = call.params, call.world
    require(params, "url", "enabled_events")
    _check_url(params["url"])
    made = world.add_endpoint(params["url"], params["enabled_events"], api_version=params.get("api_version"))
    made.update(description=params.get("description"), metadata=params.get("metadata", {}))
    return present(made) | {"secret": world.store.note(made["id"])["secret"]}


def update_endpoint(call: Call) -> Json:
    """POST /v1/webhook_endpoints/{id}"""
    stored, params = call.named("webhook_endpoint"), dict(call.params)
    if "url" in params:
        _check_url(params["url"])
    if "metadata" in params:
        params["metadata"] = merged_metadata(stored["metadata"], params["metadata"])
    if "disabled" in params:
        params["status"] = "disabled" if params.pop("disabled") else "enabled"
    stored.update(params)
    return present(stored)


def delete_endpoint(call: Call) -> Json:
    """DELETE /v1/webhook_endpoints/{id}"""
    stored = call.named("webhook_endpoint")
    del call.world.store.table("webhook_endpoint")[stored["id"]]
    return {"id": stored["id"], "object": "webhook_endpoint", "deleted": True}


def list_endpoints(call: Call) -> Json:
    """GET /v1/webhook_endpoints"""
    return page(call.url, call.world.store.newest("webhook_endpoint"), call.params)


def _check_url(url: str | None) -> None:
    parts = urlsplit(url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequestError(
            "Invalid URL: An explicit scheme (such as https) must be provided.", param="url"
        )


OPERATIONS = [
    Operation("GET", "/v1/events/{id}", retrieve_event),
    Operation(
        "GET",
        "/v1/events",
        list_events,
        {**PAGING_BY_DATE, "delivery_success": BOOLEAN, "type": TEXT, "types": [TEXT]},
    ),
    Operation("POST", "/v1/webhook_endpoints", create_endpoint, ENDPOINT),
    retriever("webhook_endpoint"),
    Operation("POST", "/v1/webhook_endpoints/{id}", update_endpoint, ENDPOINT_UPDATE),
    Operation("DELETE", "/v1/webhook_endpoints/{id}", delete_endpoint),
    Operation("GET", "/v1/webhook_endpoints", list_endpoints, PAGING),
]
