"""The calls about intents, charges, refunds and disputes, including the browser's.

A browser uses a publishable key with a client secret, and gets fewer fields.
"""

from __future__ import annotations

import hmac

from paidup_demo.sandbox import objects, payment_methods, payments, reversals
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import METHOD, retriever, updated
from paidup_demo.sandbox.bank_methods import METHOD_TYPES
from paidup_demo.sandbox.errors import InvalidRequestError, Json, StripeError
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import BOOLEAN, INTEGER, METADATA, TEXT, Shape, choice, require
from paidup_demo.sandbox.objects import nulls
from paidup_demo.sandbox.pages import PAGING_BY_DATE, page

# The fields of an intent that Stripe returns for a publishable key.
PUBLIC = frozenset(
    nulls(
        "id object amount amount_details automatic_payment_methods canceled_at cancellation_reason "
        "capture_method client_secret confirmation_method created currency description last_payment_error "
        "last_setup_error livemode next_action payment_method payment_method_configuration_details "
        "payment_method_types processing receipt_email setup_future_usage shipping status usage"
    )
)
CONFIRM: Shape = {
    "client_secret": TEXT,
    "mandate_data": {"customer_acceptance": {"type": choice("online", "offline"), "online": {}}},
    "off_session": BOOLEAN,
    "payment_method": TEXT,
    "payment_method_data": METHOD,
    "return_url": TEXT,
    "use_stripe_sdk": BOOLEAN,
}
INTENT_UPDATE: Shape = {
    "description": TEXT,
    "metadata": METADATA,
    "setup_future_usage": choice("off_session", "on_session"),
}
INTENT: Shape = {
    **INTENT_UPDATE,
    "amount": INTEGER,
    "currency": TEXT,
    "customer": TEXT,
    "confirm": BOOLEAN,
    "off_session": BOOLEAN,
    "payment_method": TEXT,
    "return_url": TEXT,
    "payment_method_types": [choice(*METHOD_TYPES)],
    "automatic_payment_methods": {"enabled": BOOLEAN, "allow_redirects": TEXT},
}
CANCELLATION: Shape = {
    "cancellation_reason": choice("duplicate", "fraudulent", "requested_by_customer", "abandoned")
}
REFUND: Shape = {
    "amount": INTEGER,
    "charge": TEXT,
    "metadata": METADATA,
    "payment_intent": TEXT,
    "reason": choice("duplicate", "fraudulent", "requested_by_customer"),
}


def create_intent(call: Call) -> Json:
    """POST /v1/payment_intents: without an invoice"""
    world, params = call.world, call.params
    require(params, "amount", "currency")
    if params["amount"] < 1:
        raise InvalidRequestError(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if params.get("customer"):
        world.store.get("customer", params["customer"], "customer")
    intent = payments.new_intent(
        world, amount=params["amount"], currency=params["currency"].lower(), customer=params.get("customer")
    )
    intent.update({key: params[key] for key in INTENT_UPDATE if key in params})
    if kinds := params.get("payment_method_types"):
        intent.update(payment_method_types=kinds, payment_method_options=objects.options_of(kinds))
    world.events.record("payment_intent.created", intent)
    method = _method(call, intent)
    if method is not None:
        intent.update(payment_method=method["id"], status="requires_confirmation")
    if params.get("confirm"):
        _confirm(call, intent, method)
    return present(intent)


def _confirm(call: Call, intent: Json, method: Json | None) -> None:
    redirect = payments.Redirect(call.origin, call.params.get("return_url"))
    off_session = call.params.get("off_session", False)
    payments.confirm(call.world, intent, method, off_session=off_session, redirect=redirect)


def _method(call: Call, intent: Json) -> Json | None:
    """What a confirmation pays with; a saved card cannot pay for another customer."""
    world = call.world
    if call.params.get("payment_method_data"):
        method = payment_methods.method_from(world.store, world.now(), call.params["payment_method_data"])
    elif not call.params.get("payment_method"):
        return None
    else:
        method = payment_methods.resolve(world.store, world.now(), call.params["payment_method"])
    payment_methods.refuse_other_type(intent, method)
    if method["customer"] not in (None, intent["customer"]):
        raise InvalidRequestError(
            "The provided PaymentMethod cannot be attached to this PaymentIntent: it belongs to another"
            " Customer.",
            param="payment_method",
        )
    return method


def _intent(call: Call, table: str) -> Json:
    """The intent in the path; a browser must provide its client secret."""
    intent = call.named(table)
    given = call.params.get("client_secret")
    if call.publishable:
        require(call.params, "client_secret")
    if given is not None and not hmac.compare_digest(given.encode(), intent["client_secret"].encode()):
        raise InvalidRequestError(
            f"The client_secret provided does not match any associated {_NAMES[table]} on this account.",
            code=f"{table}_invalid_parameter",
            param="client_secret",
        )
    return intent


_NAMES = {"payment_intent": "PaymentIntent", "setup_intent": "SetupIntent"}


def _seen(call: Call, intent: Json) -> Json:
    shown = present(intent)
    return {key: value for key, value in shown.items() if key in PUBLIC} if call.publishable else shown


def retrieve_intent(call: Call) -> Json:
    """GET /v1/payment_intents/{id}"""
    return _seen(call, _intent(call, "payment_intent"))


def _refuse_of_session(call: Call, intent: Json, verb: str) -> None:
    """The SDK's `checkout.Session.payment_intent`: "You can't confirm or cancel the PaymentIntent"."""
    if call.world.store.note(intent["id"]).get("checkout_session"):
        raise InvalidRequestError(
            f"You cannot {verb} this PaymentIntent because it was created by a Checkout Session. To cancel"
            " it, expire the Checkout Session instead."
        )


def confirm_intent(call: Call) -> Json:
    """POST /v1/payment_intents/{id}/confirm"""
    intent = _intent(call, "payment_intent")
    _refuse_of_session(call, intent, "confirm")
    try:
        method = _method(call, intent)
        _confirm(call, intent, method)
    except StripeError as error:
        if "payment_intent" in error.fields:
            error.fields["payment_intent"] = _seen(call, intent)
        raise
    return _seen(call, intent)


def update_intent(call: Call) -> Json:
    """POST /v1/payment_intents/{id}"""
    return updated(call.world, call.named("payment_intent"), call.params, "payment_intent.updated")


def cancel_intent(call: Call) -> Json:
    """POST /v1/payment_intents/{id}/cancel"""
    intent = call.named("payment_intent")
    if call.world.store.note(intent["id"]).get("invoice"):
        raise InvalidRequestError(
            "You cannot cancel this PaymentIntent because it was created by an Invoice. To cancel it, void"
            " the Invoice."
        )
    _refuse_of_session(call, intent, "cancel")
    payments.cancel(call.world, intent, call.params.get("cancellation_reason"))
    return present(intent)


def list_intents(call: Call) -> Json:
    """GET /v1/payment_intents"""
    customer = call.params.get("customer")
    rows = call.world.store.newest("payment_intent")
    return page(call.url, rows, call.params, lambda row: customer is None or row["customer"] == customer)


def retrieve_setup_intent(call: Call) -> Json:
    """GET /v1/setup_intents/{id}"""
    return _seen(call, _intent(call, "setup_intent"))


def list_setup_intents(call: Call) -> Json:
    """GET /v1/setup_intents"""
    return page(call.url, call.world.store.newest("setup_intent"), call.params)


def confirm_setup_intent(call: Call) -> Json:
    """POST /v1/setup_intents/{id}/confirm"""
    intent = _intent(call, "setup_intent")
    payments.confirm_setup(call.world, intent, _method(call, intent))
    return _seen(call, intent)


def list_charges(call: Call) -> Json:
    """GET /v1/charges"""
    params = call.params

    def keep(row: Json) -> bool:
        return all(row[name] == params[name] for name in ("customer", "payment_intent") if name in params)

    return page(call.url, call.world.store.newest("charge"), params, keep)


def create_refund(call: Call) -> Json:
    """POST /v1/refunds"""
    world, params = call.world, call.params
    charge_id = params.get("charge")
    if params.get("payment_intent"):
        intent = world.store.get("payment_intent", params["payment_intent"], "payment_intent")
        charge_id = intent["latest_charge"]
        if intent["status"] != "succeeded":
            raise InvalidRequestError("This PaymentIntent does not have a successful charge to refund.")
    if not charge_id:
        raise InvalidRequestError(
            "One of the following params should be provided for this request: payment_intent or charge."
        )
    charge = world.store.get("charge", charge_id, "charge")
    made = reversals.refund(
        world, charge, params.get("amount"), params.get("reason"), params.get("metadata", {})
    )
    return present(made)


def list_refunds(call: Call) -> Json:
    """GET /v1/refunds"""
    params = call.params

    def keep(row: Json) -> bool:
        return all(row[name] == params[name] for name in ("charge", "payment_intent") if name in params)

    return page(call.url, call.world.store.newest("refund"), params, keep)


def list_disputes(call: Call) -> Json:
    """GET /v1/disputes"""
    params = call.params

    def keep(row: Json) -> bool:
        return all(row[name] == params[name] for name in ("charge", "payment_intent") if name in params)

    return page(call.url, call.world.store.newest("dispute"), params, keep)


def close_dispute(call: Call) -> Json:
    """POST /v1/disputes/{id}/close: accepts the dispute"""
    dispute = call.named("dispute")
    reversals.close_dispute(call.world, dispute, "lost")
    return present(dispute)


BY_PAYMENT: Shape = {**PAGING_BY_DATE, "charge": TEXT, "payment_intent": TEXT}
OPERATIONS = [
    Operation("POST", "/v1/payment_intents", create_intent, INTENT),
    Operation("GET", "/v1/payment_intents/{id}", retrieve_intent, {"client_secret": TEXT}, publishable=True),
    Operation("POST", "/v1/payment_intents/{id}", update_intent, INTENT_UPDATE),
    Operation("POST", "/v1/payment_intents/{id}/confirm", confirm_intent, CONFIRM, publishable=True),
    Operation("POST", "/v1/payment_intents/{id}/cancel", cancel_intent, CANCELLATION),
    Operation("GET", "/v1/payment_intents", list_intents, {**PAGING_BY_DATE, "customer": TEXT}),
    Operation(
        "GET", "/v1/setup_intents/{id}", retrieve_setup_intent, {"client_secret": TEXT}, publishable=True
    ),
    Operation("GET", "/v1/setup_intents", list_setup_intents, PAGING_BY_DATE),
    Operation("POST", "/v1/setup_intents/{id}/confirm", confirm_setup_intent, CONFIRM, publishable=True),
    retriever("charge"),
    Operation(
        "GET", "/v1/charges", list_charges, {**PAGING_BY_DATE, "customer": TEXT, "payment_intent": TEXT}
    ),
    Operation("POST", "/v1/refunds", create_refund, REFUND),
    retriever("refund"),
    Operation("GET", "/v1/refunds", list_refunds, BY_PAYMENT),
    retriever("dispute"),
    Operation("GET", "/v1/disputes", list_disputes, BY_PAYMENT),
    Operation("POST", "/v1/disputes/{id}/close", close_dispute),
]
