"""The calls about customers, products, prices, coupons and payment methods.

Validates and stores; nothing is charged.
"""

from __future__ import annotations

from paidup_demo.sandbox import objects, payment_methods, payments
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import (
    BOOLEAN,
    CURRENCY_OPTIONS,
    INTEGER,
    METADATA,
    NUMBER,
    TEXT,
    Shape,
    choice,
    require,
)
from paidup_demo.sandbox.pages import PAGING, PAGING_BY_DATE, page
from paidup_demo.sandbox.subscriptions import merged_metadata
from paidup_demo.sandbox.world import World

ADDRESS: Shape = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"), TEXT)
BILLING_DETAILS: Shape = {"address": ADDRESS, "email": TEXT, "name": TEXT, "phone": TEXT}
METHOD: Shape = {
    "type": TEXT,
    "amazon_pay": {},
    "bancontact": {},
    "boleto": {"tax_id": TEXT},
    "card": {"number": TEXT, "exp_month": INTEGER, "exp_year": INTEGER, "cvc": TEXT, "token": TEXT},
    "ideal": {},
    "konbini": {},
    "link": {},
    "oxxo": {},
    "sepa_debit": {"iban": TEXT},
    "us_bank_account": {
        "account_holder_type": choice("company", "individual"),
        "account_number": TEXT,
        "account_type": choice("checking", "savings"),
        "routing_number": TEXT,
    },
    "billing_details": BILLING_DETAILS,
}
CUSTOMER: Shape = {
    "address": ADDRESS,
    "balance": INTEGER,
    "description": TEXT,
    "email": TEXT,
    "invoice_settings": {"default_payment_method": TEXT},
    "metadata": METADATA,
    "name": TEXT,
    "phone": TEXT,
}
PRODUCT_UPDATE: Shape = {
    "active": BOOLEAN,
    "description": TEXT,
    "metadata": METADATA,
    "name": TEXT,
    "url": TEXT,
}
PRODUCT: Shape = {**PRODUCT_UPDATE, "id": TEXT}
PRICE_UPDATE: Shape = {
    "active": BOOLEAN,
    "currency_options": CURRENCY_OPTIONS,
    "lookup_key": TEXT,
    "metadata": METADATA,
    "nickname": TEXT,
    "transfer_lookup_key": BOOLEAN,
}
PRICE: Shape = {
    **PRICE_UPDATE,
    "currency": TEXT,
    "product": TEXT,
    "product_data": {"name": TEXT, "metadata": METADATA},
    "recurring": {
        "interval": choice("day", "week", "month", "year"),
        "interval_count": INTEGER,
        "meter": TEXT,
        "usage_type": choice("licensed", "metered"),
    },
    "unit_amount": INTEGER,
}
COUPON: Shape = {
    "amount_off": INTEGER,
    "currency": TEXT,
    "duration": choice("forever", "once", "repeating"),
    "duration_in_months": INTEGER,
    "id": TEXT,
    "metadata": METADATA,
    "name": TEXT,
    "percent_off": NUMBER,
}


def updated(world: World, stored: Json, params: Json, event: str) -> Json:
    """Update a stored object with validated parameters, merge its metadata, and record the event."""
    new = dict(params)
    if "metadata" in new:
        new["metadata"] = merged_metadata(stored["metadata"], new["metadata"])
    world.events.change(event, stored, **new)
    return present(stored)


def create_customer(call: Call) -> Json:
    """POST /v1/customers"""
    world, params = call.world, dict(call.params)
    settings = params.pop("invoice_settings", {})
    made = world.store.add(objects.customer(world.now(), params) | params)
    _set_default_method(world, made, settings)
    world.events.record("customer.created", made)
    return present(made)


def update_customer(call: Call) -> Json:
    """POST /v1/customers/{id}"""
    params = dict(call.params)
    stored = call.named("customer")
    _set_default_method(call.world, stored, params.pop("invoice_settings", {}))
    return updated(call.world, stored, params, "customer.updated")


def _set_default_method(world: World, customer: Json, settings: Json) -> None:
    if not settings.get("default_payment_method"):
        return
    method = payment_methods.resolve(world.store, world.now(), settings["default_payment_method"])
    payments.attach(world, method, customer["id"])
    customer["invoice_settings"]["default_payment_method"] = method["id"]


def list_customers(call: Call) -> Json:
    """GET /v1/customers"""
    email = call.params.get("email")
    rows = call.world.store.newest("customer")
    return page(call.url, rows, call.params, lambda row: email is None or row["email"] == email)


def create_product(call: Call) -> Json:
    """POST /v1/products"""
    require(call.params, "name")
    world = call.world
    if world.store.find("product", call.params.get("id")) is not None:
        raise InvalidRequestError("Product already exists.", code="resource_already_exists", param="id")
    made = world.store.add(objects.product(world.now(), call.params["name"]) | call.params)
    world.events.record("product.created", made)
    return present(made)


def update_product(call: Call) -> Json:
    """POST /v1/products/{id}"""
    params = call.params | {"updated": call.world.now()}
    return updated(call.world, call.named("product"), params, "product.updated")


def list_products(call: Call) -> Json:
    """GET /v1/products"""
    ids, active = call.params.get("ids"), call.params.get("active")
    return page(
        call.url,
        call.world.store.newest("product"),
        call.params,
        lambda row: (not ids or row["id"] in ids) and (active is None or row["active"] == active),
    )


def create_price(call: Call) -> Json:
    """POST /v1/prices"""
    world, params = call.world, call.params
    require(params, "currency", "unit_amount")
    if "product_data" in params:
        require(params["product_data"], "name")
        data = params["product_data"]
        product = world.store.add(objects.product(world.now(), data["name"]) | data)
        world.events.record("product.created", product)
    else:
        require(params, "product")
        product = world.store.get("product", params["product"], "product")
    made = objects.price(
        world.now(),
        product=product["id"],
        currency=params["currency"].lower(),
        unit_amount=params["unit_amount"],
        recurring=params.get("recurring"),
    )
    made |= {key: params[key] for key in ("active", "metadata", "nickname") if key in params}
    _claim_lookup_key(world, made, params)
    world.store.add(made)
    _keep_options(world, made, params)
    world.events.record("price.created", made)
    return present(made)


def _claim_lookup_key(world: World, price: Json, params: Json) -> None:
    """A lookup key belongs to one price; `transfer_lookup_key` moves it from its current price."""
    key = params.get("lookup_key")
    holder = next(world.store.newest("price", lookup_key=key), None) if key else None
    if holder is not None and holder is not price:
        if not params.get("transfer_lookup_key"):
            raise InvalidRequestError(
                f"A price (`{holder['id']}`) already uses that lookup key.",
                code="resource_already_exists",
                param="lookup_key",
            )
        holder["lookup_key"] = None
    if "lookup_key" in params:
        price["lookup_key"] = key


def _keep_options(world: World, price: Json, params: Json) -> None:
    """Keep them in a note: Stripe shows them only where they are expanded."""
    if options := params.get("currency_options"):
        note = world.store.note(price["id"])
        note["currency_options"] = note.get("currency_options", {}) | options
        world.store.touch()


def update_price(call: Call) -> Json:
    """POST /v1/prices/{id}"""
    stored = call.named("price")
    _claim_lookup_key(call.world, stored, call.params)
    _keep_options(call.world, stored, call.params)
    elsewhere = ("lookup_key", "transfer_lookup_key", "currency_options")
    params = {key: value for key, value in call.params.items() if key not in elsewhere}
    return updated(call.world, stored, params, "price.updated")


def list_prices(call: Call) -> Json:
    """GET /v1/prices"""
    params = call.params
    keys, kind = params.get("lookup_keys"), params.get("type")

    def keep(row: Json) -> bool:
        return (
            (not keys or row["lookup_key"] in keys)
            and (kind is None or row["type"] == kind)
            and all(row[name] == params[name] for name in ("product", "active", "currency") if name in params)
        )

    return page(call.url, call.world.store.newest("price"), params, keep)


def create_coupon(call: Call) -> Json:
    """POST /v1/coupons"""
    params = call.params
    if (params.get("percent_off") is None) == (params.get("amount_off") is None):
        raise InvalidRequestError("You must pass exactly one of percent_off or amount_off.")
    if params.get("amount_off") is not None:
        require(params, "currency")
    if params.get("percent_off") is not None and not 0 < params["percent_off"] <= 100:
        raise InvalidRequestError("Invalid percent_off: must be between 0 and 100.", param="percent_off")
    made = call.world.store.add(objects.coupon(call.world.now(), params))
    call.world.events.record("coupon.created", made)
    return present(made)


def create_payment_method(call: Call) -> Json:
    """POST /v1/payment_methods"""
    require(call.params, "type")
    if call.params["type"] == "card":
        require(call.params, "card")
    return present(payment_methods.method_from(call.world.store, call.world.now(), call.params))


def retrieve_payment_method(call: Call) -> Json:
    """GET /v1/payment_methods/{id}"""
    return present(payment_methods.resolve(call.world.store, call.world.now(), call.id, in_path=True))


def attach_payment_method(call: Call) -> Json:
    """POST /v1/payment_methods/{id}/attach"""
    require(call.params, "customer")
    world = call.world
    customer = world.store.get("customer", call.params["customer"], "customer")
    method = payment_methods.resolve(world.store, world.now(), call.id, in_path=True)
    payments.refuse_unattachable(world, method)
    payments.attach(world, method, customer["id"])
    return present(method)


def list_payment_methods(call: Call) -> Json:
    """GET /v1/payment_methods"""
    require(call.params, "customer")
    rows = call.world.store.newest("payment_method", customer=call.params["customer"])
    return page(call.url, rows, call.params)


def retriever(table: str) -> Operation:
    """GET of one object by its id."""
    return Operation("GET", f"/v1/{table}s/{{id}}", lambda call: present(call.named(table)))


def retrieve_account(call: Call) -> Json:
    """GET /v1/account"""
    return objects.account(call.world.conditions.default_currency)


OPERATIONS = [
    Operation("POST", "/v1/customers", create_customer, CUSTOMER),
    Operation("POST", "/v1/customers/{id}", update_customer, CUSTOMER),
    Operation("GET", "/v1/customers", list_customers, {**PAGING_BY_DATE, "email": TEXT}),
    Operation("POST", "/v1/products", create_product, PRODUCT),
    retriever("product"),
    Operation("POST", "/v1/products/{id}", update_product, PRODUCT_UPDATE),
    Operation("GET", "/v1/products", list_products, {**PAGING_BY_DATE, "active": BOOLEAN, "ids": [TEXT]}),
    Operation("POST", "/v1/prices", create_price, PRICE),
    retriever("price"),
    Operation("POST", "/v1/prices/{id}", update_price, PRICE_UPDATE),
    Operation(
        "GET",
        "/v1/prices",
        list_prices,
        {
            **PAGING_BY_DATE,
            "active": BOOLEAN,
            "currency": TEXT,
            "lookup_keys": [TEXT],
            "product": TEXT,
            "type": choice("recurring", "one_time"),
        },
    ),
    Operation("POST", "/v1/coupons", create_coupon, COUPON),
    retriever("coupon"),
    Operation(
        "POST",
        "/v1/payment_methods",
        create_payment_method,
        {**METHOD, "metadata": METADATA},
        publishable=True,
    ),
    Operation("GET", "/v1/payment_methods/{id}", retrieve_payment_method),
    Operation("POST", "/v1/payment_methods/{id}/attach", attach_payment_method, {"customer": TEXT}),
    Operation("GET", "/v1/payment_methods", list_payment_methods, {**PAGING, "customer": TEXT, "type": TEXT}),
    Operation("GET", "/v1/account", retrieve_account),
]
