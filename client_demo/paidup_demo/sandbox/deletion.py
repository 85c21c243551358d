"""Deletes customers for good, and ends their subscriptions: https://docs.stripe.com/api/customers/delete.

A deleted customer is shown as such by its id, and everything else that names it is refused.
"""

from __future__ import annotations

from paidup_demo.sandbox import subscriptions
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.world import World

DELETED = "deleted_customer"
ENDED = ("canceled", "incomplete_expired")


def delete_customer(call: Call) -> Json:
    """DELETE /v1/customers/{id}"""
    return delete(call.world, call.named("customer"))


def delete(world: World, customer: Json) -> Json:
    """Cancel the customer's subscriptions, remove its cards, and leave its id behind."""
    for subscription in list(world.store.newest("subscription", customer=customer["id"])):
        if subscription["status"] not in ENDED:
            subscriptions.cancel(world, subscription)
    for method in list(world.store.newest("payment_method", customer=customer["id"])):
        world.events.change("payment_method.detached", method, customer=None)
    del world.store.table("customer")[customer["id"]]
    tombstone = {"id": customer["id"], "object": "customer", "deleted": True}
    world.store.add(tombstone, DELETED)
    world.events.record("customer.deleted", customer)
    return present(tombstone)


def retrieve_customer(call: Call) -> Json:
    """GET /v1/customers/{id}"""
    deleted = call.world.store.find(DELETED, call.id)
    return present(deleted or call.named("customer"))


OPERATIONS = [
    Operation("DELETE", "/v1/customers/{id}", delete_customer),
    Operation("GET", "/v1/customers/{id}", retrieve_customer),
]
