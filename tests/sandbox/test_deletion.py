"""Deleted customers in the sandbox, as https://docs.stripe.com/api/customers/delete describes them."""

from __future__ import annotations

import pytest
import stripe

from .rig import CARD, Receiver, Sandbox, wait_until


async def test_a_deleted_customer_is_shown_as_deleted_and_refused_elsewhere(sandbox_bare: Sandbox) -> None:
    """S53: 404 in an address and 400 in a parameter, both `resource_missing`; by its id it is still shown."""
    v1 = sandbox_bare.v1
    customer = (await v1.customers.create_async({})).id
    price = (await sandbox_bare.plan(2000)).id
    deleted = await v1.customers.delete_async(customer)
    assert (deleted.id, deleted.deleted) == (customer, True)
    shown = await v1.customers.retrieve_async(customer)
    assert (shown.id, shown.object, shown.deleted) == (customer, "customer", True)
    assert "metadata" not in shown
    assert (await v1.customers.list_async({})).data == []
    in_parameter = (
        v1.subscriptions.create_async({"customer": customer, "items": [{"price": price}]}),
        v1.invoices.create_async({"customer": customer}),
        v1.invoice_items.create_async({"customer": customer, "amount": 5, "currency": "usd"}),
        v1.payment_methods.attach_async(CARD, {"customer": customer}),
        v1.subscriptions.list_async({"customer": customer}),
        v1.subscriptions.list_async({"customer": "cus_never"}),
    )
    in_address = (
        v1.customers.update_async(customer, {"name": "Ada"}),
        v1.customers.delete_async(customer),
        v1.customers.retrieve_async("cus_never"),
    )
    for calls, status in ((in_parameter, 400), (in_address, 404)):
        for call in calls:
            with pytest.raises(stripe.InvalidRequestError) as refused:
                await call
            assert (refused.value.http_status, refused.value.code) == (status, "resource_missing")


async def test_a_customers_subscriptions_end_with_it(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """S53: what runs is canceled, what was never paid expires; an invoice besides can no longer be paid."""
    v1 = sandbox_hooked.v1
    signup = await sandbox_hooked.subscribe()
    customer = signup.subscription.customer
    draft = await v1.invoices.create_async({"customer": customer})
    await v1.invoice_items.create_async(
        {"customer": customer, "invoice": draft.id, "amount": 900, "currency": "usd"}
    )
    top_up = await v1.invoices.finalize_invoice_async(draft.id, {"expand": ["confirmation_secret"]})
    await v1.customers.delete_async(customer)
    ended = await v1.subscriptions.retrieve_async(signup.subscription.id)
    assert (ended.status, ended.customer) == ("incomplete_expired", customer)
    await wait_until(lambda: "customer.deleted" in sandbox_receiver.types())
    (event,) = sandbox_receiver.of("customer.deleted")
    assert event["data"]["object"]["id"] == customer
    assert (await v1.invoices.retrieve_async(top_up.id)).status == "open"
    secret = top_up.confirmation_secret.client_secret
    form = {"client_secret": secret, "payment_method": CARD}
    path = f"/v1/payment_intents/{secret.partition('_secret_')[0]}/confirm"
    refused = await sandbox_hooked.browser("POST", path, **form)
    assert (refused.status, refused.body["error"]["code"]) == (400, "resource_missing")
