"""The calls about credit notes. Validates the parameters and calls credit_notes.py."""

from __future__ import annotations

from paidup_demo.sandbox import credit_notes
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import retriever, updated
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import INTEGER, METADATA, TEXT, Shape, choice, require
from paidup_demo.sandbox.pages import PAGING, PAGING_BY_DATE, page

NOTE: Shape = {
    "amount": INTEGER,
    "credit_amount": INTEGER,
    "invoice": TEXT,
    "lines": [
        {
            "amount": INTEGER,
            "description": TEXT,
            "invoice_line_item": TEXT,
            "quantity": INTEGER,
            "type": choice("custom_line_item", "invoice_line_item"),
            "unit_amount": INTEGER,
        }
    ],
    "memo": TEXT,
    "metadata": METADATA,
    "out_of_band_amount": INTEGER,
    "reason": choice("duplicate", "fraudulent", "order_change", "product_unsatisfactory"),
    "refund_amount": INTEGER,
    "refunds": [{"amount_refunded": INTEGER, "refund": TEXT, "type": choice("refund")}],
}


def create_note(call: Call) -> Json:
    """POST /v1/credit_notes"""
    require(call.params, "invoice")
    return present(credit_notes.create(call.world, call.params))


def update_note(call: Call) -> Json:
    """POST /v1/credit_notes/{id}"""
    return updated(call.world, call.named("credit_note"), call.params, "credit_note.updated")


def void_note(call: Call) -> Json:
    """POST /v1/credit_notes/{id}/void"""
    stored = call.named("credit_note")
    credit_notes.void(call.world, stored)
    return present(stored)


def list_notes(call: Call) -> Json:
    """GET /v1/credit_notes"""
    params = call.params

    def keep(row: Json) -> bool:
        return all(row[name] == params[name] for name in ("customer", "invoice") if name in params)

    return page(call.url, call.world.store.newest("credit_note"), params, keep)


def list_note_lines(call: Call) -> Json:
    """GET /v1/credit_notes/{id}/lines"""
    return page(call.url, call.named("credit_note")["lines"]["data"], call.params)


OPERATIONS = [
    Operation("POST", "/v1/credit_notes", create_note, NOTE),
    retriever("credit_note"),
    Operation("POST", "/v1/credit_notes/{id}", update_note, {"memo": TEXT, "metadata": METADATA}),
    Operation("POST", "/v1/credit_notes/{id}/void", void_note),
    Operation("GET", "/v1/credit_notes", list_notes, {**PAGING_BY_DATE, "customer": TEXT, "invoice": TEXT}),
    Operation("GET", "/v1/credit_notes/{id}/lines", list_note_lines, PAGING),
]
