"""The calls about invoices, invoice items and invoice payments.

Validates the parameters and calls invoices.py.
"""

from __future__ import annotations

from typing import Any

from paidup_demo.sandbox import currencies, invoices, objects, payment_methods, previews
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import retriever, updated
from paidup_demo.sandbox.api_subscriptions import CHANGE
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import BOOLEAN, INTEGER, METADATA, TEXT, Shape, choice, require
from paidup_demo.sandbox.pages import PAGING, PAGING_BY_DATE, page
from paidup_demo.sandbox.world import World

PREVIEW: Shape = {
    "customer": TEXT,
    "preview_mode": choice("next"),
    "subscription": TEXT,
    "subscription_details": {**CHANGE, "cancel_at_period_end": BOOLEAN, "cancel_now": BOOLEAN},
}
INVOICE: Shape = {
    "auto_advance": BOOLEAN,
    "collection_method": choice("charge_automatically"),
    "currency": TEXT,
    "customer": TEXT,
    "description": TEXT,
    "metadata": METADATA,
    "pending_invoice_items_behavior": choice("include", "exclude"),
}
INVOICE_ITEM: Shape = {
    "amount": INTEGER,
    "currency": TEXT,
    "customer": TEXT,
    "description": TEXT,
    "invoice": TEXT,
    "metadata": METADATA,
    "period": {"start": INTEGER, "end": INTEGER},
    "pricing": {"price": TEXT},
    "quantity": INTEGER,
}


def create_invoice(call: Call) -> Json:
    """POST /v1/invoices: a draft for a customer, optionally with their pending invoice items"""
    require(call.params, "customer")
    world, params = call.world, call.params
    customer = world.store.get("customer", params["customer"], "customer")
    currency = currencies.default_for(world, customer, params.get("currency"))
    draft = invoices.new_draft(world, customer, currency, "manual", params.get("metadata", {}))
    draft.update(auto_advance=params.get("auto_advance", False), description=params.get("description"))
    if params.get("pending_invoice_items_behavior") == "include":
        waiting = world.store.newest("invoiceitem", customer=customer["id"], invoice=None, currency=currency)
        invoices.take_items(world, draft, list(waiting))
    world.events.record("invoice.created", draft)
    return present(draft)


def preview_invoice(call: Call) -> Json:
    """POST /v1/invoices/create_preview: an invoice that is not stored"""
    return present(previews.preview(call.world, call.params))


def update_invoice(call: Call) -> Json:
    """POST /v1/invoices/{id}"""
    return updated(call.world, call.named("invoice"), call.params, "invoice.updated")


def list_invoices(call: Call) -> Json:
    """GET /v1/invoices"""
    params = call.params

    def keep(row: Json) -> bool:
        details = (row["parent"] or {}).get("subscription_details") or {}
        return all(
            found == params[name]
            for name, found in (
                ("customer", row["customer"]),
                ("status", row["status"]),
                ("subscription", details.get("subscription")),
                ("collection_method", row["collection_method"]),
            )
            if name in params
        )

    return page(call.url, call.world.store.newest("invoice"), params, keep)


def list_invoice_lines(call: Call) -> Json:
    """GET /v1/invoices/{id}/lines: in the invoice's own order"""
    return page(call.url, call.named("invoice")["lines"]["data"], call.params)


def finalize_invoice(call: Call) -> Json:
    """POST /v1/invoices/{id}/finalize"""
    stored = call.named("invoice")
    invoices.finalize(call.world, stored)
    return present(stored)


def pay_invoice(call: Call) -> Json:
    """POST /v1/invoices/{id}/pay"""
    world, stored, params = call.world, call.named("invoice"), call.params
    if params.get("paid_out_of_band"):
        invoices.pay_out_of_band(world, stored)
    else:
        named = params.get("payment_method")
        method = payment_methods.resolve(world.store, world.now(), named) if named else None
        invoices.pay(world, stored, method, off_session=params.get("off_session", True))
    return present(stored)


def delete_invoice(call: Call) -> Json:
    """DELETE /v1/invoices/{id}: a draft that no subscription made; its items are pending again"""
    world, stored = call.world, call.named("invoice")
    if stored["status"] != "draft" or stored["parent"] is not None:
        raise InvalidRequestError("You can only delete draft invoices that no subscription made.")
    for item in world.store.linked(stored["customer"], "invoiceitem"):
        if item["invoice"] == stored["id"]:
            item["invoice"] = None
    world.store.remove(stored)
    world.events.record("invoice.deleted", stored)
    return {"id": stored["id"], "object": "invoice", "deleted": True}


def delete_invoice_item(call: Call) -> Json:
    """DELETE /v1/invoiceitems/{id}: pending, or on a draft"""
    world, stored = call.world, call.named("invoiceitem")
    draft = world.store.find("invoice", stored["invoice"]) if stored["invoice"] else None
    if draft is not None:
        if draft["status"] != "draft":
            raise InvalidRequestError("This invoice is no longer editable.", code="invoice_not_editable")
        invoices.drop_item(draft, stored)
    world.store.remove(stored, owner=stored["customer"])
    world.events.record("invoiceitem.deleted", stored)
    return {"id": stored["id"], "object": "invoiceitem", "deleted": True}


def void_invoice(call: Call) -> Json:
    """POST /v1/invoices/{id}/void"""
    stored = call.named("invoice")
    invoices.void(call.world, stored)
    return present(stored)


def mark_invoice_uncollectible(call: Call) -> Json:
    """POST /v1/invoices/{id}/mark_uncollectible"""
    stored = call.named("invoice")
    invoices.mark_uncollectible(call.world, stored)
    return present(stored)


def create_invoice_item(call: Call) -> Json:
    """POST /v1/invoiceitems: added to a draft, or pending until the next invoice"""
    require(call.params, "customer")
    world, params = call.world, call.params
    customer = world.store.get("customer", params["customer"], "customer")
    draft = world.store.get("invoice", params["invoice"], "invoice") if params.get("invoice") else None
    made = _invoice_item(world, customer, params, draft)
    invoices.keep_item(world, made)
    if draft is not None:
        if draft["customer"] != customer["id"]:
            raise InvalidRequestError("The invoice belongs to another customer.", param="invoice")
        invoices.take_items(world, draft, [made])
    world.events.record("invoiceitem.created", made)
    return present(made)


def _invoice_item(world: World, customer: Json, params: Json, draft: Json | None) -> Json:
    currency = draft["currency"] if draft else currencies.default_for(world, customer, params.get("currency"))
    quantity = params.get("quantity") or 1
    more: dict[str, Any] = {
        key: params[key] for key in ("description", "metadata", "period") if key in params
    }
    if params.get("pricing", {}).get("price"):
        found = world.store.get("price", params["pricing"]["price"], "pricing[price]")
        if not found["active"]:
            raise InvalidRequestError(
                "The price specified is inactive. This field only accepts active prices.",
                param="pricing[price]",
            )
        price = currencies.price_in(world, found, currency, "pricing[price]")
        amount = price["unit_amount"] * quantity
        more["pricing"] = objects.price_details(price)
        more.setdefault("description", world.store.get("product", price["product"])["name"])
    else:
        require(params, "amount", "currency")
        amount = params["amount"]
    made = objects.invoice_item(
        world.now(), customer=customer["id"], currency=currency, amount=amount, quantity=quantity
    )
    return made | more


def list_invoice_items(call: Call) -> Json:
    """GET /v1/invoiceitems: of a customer or an invoice, or all pending ones"""
    params = call.params
    pending = params.get("pending")

    def keep(row: Json) -> bool:
        fits = all(row[name] == params[name] for name in ("customer", "invoice") if name in params)
        return fits and (pending is None or (row["invoice"] is None) == pending)

    rows = ({**row, "created": row["date"]} for row in call.world.store.newest("invoiceitem"))
    shown = page(call.url, rows, params, keep)
    for row in shown["data"]:
        del row["created"]
    return shown


def list_invoice_payments(call: Call) -> Json:
    """GET /v1/invoice_payments"""
    params = call.params
    payment = params.get("payment", {})
    if payment:
        require(payment, "type")
        require(payment, payment["type"])

    owner = payment.get("payment_intent") or params.get("invoice")
    store = call.world.store
    rows = store.linked(owner, "invoice_payment") if owner else store.newest("invoice_payment")

    def keep(row: Json) -> bool:
        return all(row[name] == params[name] for name in ("invoice", "status") if name in params)

    return page(call.url, rows, params, keep)


OPERATIONS = [
    Operation("POST", "/v1/invoices", create_invoice, INVOICE),
    retriever("invoice"),
    Operation("POST", "/v1/invoices/create_preview", preview_invoice, PREVIEW),
    Operation(
        "POST",
        "/v1/invoices/{id}",
        update_invoice,
        {"auto_advance": BOOLEAN, "description": TEXT, "metadata": METADATA},
    ),
    Operation(
        "GET",
        "/v1/invoices",
        list_invoices,
        {
            **PAGING_BY_DATE,
            "collection_method": TEXT,
            "customer": TEXT,
            "status": choice("draft", "open", "paid", "uncollectible", "void"),
            "subscription": TEXT,
        },
    ),
    Operation("GET", "/v1/invoices/{id}/lines", list_invoice_lines, PAGING),
    Operation("POST", "/v1/invoices/{id}/finalize", finalize_invoice, {"auto_advance": BOOLEAN}),
    Operation(
        "POST",
        "/v1/invoices/{id}/pay",
        pay_invoice,
        {"off_session": BOOLEAN, "paid_out_of_band": BOOLEAN, "payment_method": TEXT},
    ),
    Operation("POST", "/v1/invoices/{id}/void", void_invoice),
    Operation("DELETE", "/v1/invoices/{id}", delete_invoice),
    Operation("POST", "/v1/invoices/{id}/mark_uncollectible", mark_invoice_uncollectible),
    Operation("POST", "/v1/invoiceitems", create_invoice_item, INVOICE_ITEM),
    retriever("invoiceitem"),
    Operation("DELETE", "/v1/invoiceitems/{id}", delete_invoice_item),
    Operation(
        "GET",
        "/v1/invoiceitems",
        list_invoice_items,
        {**PAGING_BY_DATE, "customer": TEXT, "invoice": TEXT, "pending": BOOLEAN},
    ),
    retriever("invoice_payment"),
    Operation(
        "GET",
        "/v1/invoice_payments",
        list_invoice_payments,
        {
            **PAGING_BY_DATE,
            "invoice": TEXT,
            "status": choice("open", "paid", "canceled"),
            "payment": {"type": choice("payment_intent"), "payment_intent": TEXT},
        },
    ),
]
