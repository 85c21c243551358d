"""The page of a Checkout Session, hosted or in a frame, and what it sends: /c/pay/{session}.

After a payment it waits for the answer to the webhook, for up to 10 s, before it goes back to the shop:
https://docs.stripe.com/checkout/fulfillment
"""

from __future__ import annotations

import hmac
import html
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from string import Template

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from paidup_demo.sandbox import (
    checkout_payment,
    checkout_quantities,
    checkout_sessions,
    payment_methods,
    payments,
    vouchers,
)
from paidup_demo.sandbox.bank_methods import NAMES, MethodType
from paidup_demo.sandbox.cards import WALLETS
from paidup_demo.sandbox.checkout_discounts import redeem
from paidup_demo.sandbox.checkout_return import redirect_of, told
from paidup_demo.sandbox.checkout_saved import may_save, shown_methods
from paidup_demo.sandbox.currencies import shown_amount
from paidup_demo.sandbox.errors import InvalidRequestError, Json, StripeError
from paidup_demo.sandbox.guard import from_another_page, own_origin, page_headers
from paidup_demo.sandbox.world import World

HERE = Path(__file__).parent
_PAGE = Template((HERE / "checkout.html").read_text("utf-8"))
_OVER = Template((HERE / "checkout_over.html").read_text("utf-8"))
MAX_BODY = 20_000
_ENDS = {
    "complete": ("You have paid", "This page is no longer needed. You can close it."),
    "expired": ("This page has expired", "Nothing was paid. Go back to the shop to begin again."),
}
_NOTHING = ("There is nothing to pay here", "Please check the address.")

Act = Callable[[World, Json, Json, str], Json]


def routes(world: World) -> list[Route]:
    """The page, and what it sends."""
    acts: Mapping[str, Act] = {
        "pay": _pay,
        "outcome": _outcome,
        "give-up": _give_up,
        "promotion": _promote,
        "quantity": _choose,
    }
    return [
        Route("/c/pay/{id}", _page(world)),
        *[Route(f"/c/pay/{{id}}/{name}", _act(world, act), methods=["POST"]) for name, act in acts.items()],
    ]


def _page(world: World) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        session = checkout_sessions.find(world, request.path_params["id"])
        headers = _headers(world, session)
        if session is None or not _may_see(session, request):
            return over(*_NOTHING, None, 404, headers)
        came_back = request.query_params.get("redirect_status")
        if came_back and (session["status"] == "complete" or session["ui_mode"] != "hosted_page"):
            await told(world, session)
            there = redirect_of(world, session, by_redirect=True)
            return RedirectResponse(there, 303) if there else over(*_ENDS["complete"], None, 200, headers)
        if session["status"] != "open":
            return over(*_ENDS[session["status"]], session["cancel_url"], 200, headers)
        return HTMLResponse(_PAGE.substitute(_shown(world, session, came_back)), headers=headers)

    return endpoint


def _may_see(session: Json, request: Request) -> bool:
    """A page in a frame needs the session's secret, unless the customer comes back from their bank."""
    if session["ui_mode"] == "hosted_page" or "redirect_status" in request.query_params:
        return True
    if session["ui_mode"] == "elements":
        return False  # the shop's own page shows it
    known, given = session["client_secret"], request.query_params.get("secret", "")
    return known is not None and hmac.compare_digest(given.encode(), known.encode())


def _headers(world: World, session: Json | None) -> dict[str, str]:
    """Only a session that is to be embedded may be, and by the allowed origins."""
    embedded = session is not None and session["ui_mode"] != "hosted_page"
    return page_headers("'self'", *world.settings.allowed_origins) if embedded else page_headers()


def over(
    title: str, words: str, back: str | None, status: int, headers: dict[str, str] | None = None
) -> Response:
    """A page without a form: nothing can be paid here, or not any more."""
    link = f'<p><a href="{html.escape(back)}">Back to the shop</a>' if back else ""
    return HTMLResponse(
        _OVER.substitute(title=title, words=words, back=link), status, headers or page_headers()
    )


def _act(world: World, act: Act) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if from_another_page(request, ()):
            return JSONResponse({"error": "This page may not do that."}, 403)
        session = checkout_sessions.find(world, request.path_params["id"])
        body = await request.body()
        if session is None or len(body) > MAX_BODY:
            return JSONResponse({"error": "There is nothing to pay here."}, 404)
        try:
            wanted = msgspec.json.decode(body, type=dict)
            answer = act(world, session, wanted, own_origin(request))
        except msgspec.DecodeError:
            return JSONResponse({"error": "This request cannot be read."}, 400)
        except StripeError as error:
            return JSONResponse({"error": str(error)}, error.status)
        finally:
            world.store.touch()
        if answer.get("status") == "complete":
            await told(world, session)
        return JSONResponse(answer)

    return endpoint


def _pay(world: World, session: Json, wanted: Json, origin: str) -> Json:
    """Try to pay with what was typed."""
    payer = {name: wanted.get(name) for name in ("email", "name", "address")}
    data = wanted.get("payment_method_data") or {}
    typed = {name: payer[name] for name in ("email", "name") if payer[name]}
    data |= {"billing_details": (data.get("billing_details") or {}) | typed}
    world.store.note(session["id"])["saves"] = bool(wanted.get("save"))
    if _is_free(session):
        method = None
    elif known := wanted.get("payment_method"):
        method = next((each for each in shown_methods(world, session) if each["id"] == known), None)
    else:
        method = payment_methods.method_from(world.store, world.now(), data)
    checkout_payment.pay(world, session, payer, method, origin)
    return _outcome(world, session, wanted, origin)


def _outcome(world: World, session: Json, _: Json, __: str) -> Json:
    """Where the page goes from here: to the shop, to the bank, or it shows why the payment failed.

    With a voucher the customer is not sent to the shop, but to the voucher:
    https://docs.stripe.com/payments/boleto/accept-a-payment#redirect-to-stripe-hosted-voucher-page
    """
    intent = checkout_sessions.intent_of(world, session)
    if session["status"] == "complete":
        voucher = vouchers.shown_in(intent) if intent is not None else None
        there = voucher["hosted_voucher_url"] if voucher else redirect_of(world, session)
        return {"status": "complete", "to": there}
    action = (intent and intent["next_action"]) or {}
    if intent is not None and intent["status"] == "processing":
        return {"status": "processing"}
    if intent is None or not action:
        failed = (intent or {}).get("last_payment_error") or {}
        return {"status": "open", "error": failed.get("message", "This payment has not been made.")}
    if action["type"] == "redirect_to_url":
        return {"status": "open", "to": action["redirect_to_url"]["url"]}
    return {"status": "open", "challenge": f"/challenge/{intent['id']}"}


def _give_up(world: World, session: Json, wanted: Json, origin: str) -> Json:
    """The bank's check was closed: it counts as failed."""
    intent = checkout_sessions.intent_of(world, session)
    if intent is not None and intent["status"] == "requires_action" and not vouchers.shown_in(intent):
        payments.authenticate(world, intent, passed=False)
    return _outcome(world, session, wanted, origin)


def _promote(world: World, session: Json, wanted: Json, _: str) -> Json:
    """Redeem a code that the customer has typed."""
    redeem(world, session, str(wanted.get("code") or ""))
    return {"status": "open"}


def _choose(world: World, session: Json, wanted: Json, _: str) -> Json:
    """Change how many of a line are bought."""
    quantity = wanted.get("quantity")
    if not isinstance(quantity, int):
        raise InvalidRequestError("Please choose a whole number.", param="quantity")
    if not checkout_sessions.may_expire(world, session):
        raise InvalidRequestError("A payment of this Checkout Session is being processed.")
    checkout_quantities.choose(world, session, str(wanted.get("line")), quantity)
    return {"status": "open"}


def _shown(world: World, session: Json, came_back: str | None) -> dict[str, str]:
    currency, total = session["currency"], session["amount_total"]
    bought = checkout_sessions.lines_of(world, session)
    lines = [(_item(line, bought), line["amount_subtotal"]) for line in bought]
    off = session["total_details"]["amount_discount"]
    lines += [("Discount", -off)] if off else []
    button = "Subscribe" if session["mode"] == "subscription" else f"Pay {shown_amount(total, currency)}"
    failed = "The payment was not made at your bank. Please try again." if came_back else ""
    back = session["cancel_url"]
    return {
        "back": f'<a href="{html.escape(back)}" id="back">← Back</a>' if back else "<span></span>",
        "button": html.escape(button),
        "came_back": "true" if came_back else "false",
        "email": _email(world, session),
        "embedded": "false" if session["ui_mode"] == "hosted_page" else "true",
        "id": session["id"],
        "lines": "".join(
            f"<dt>{name}</dt><dd>{shown_amount(amount, currency)}</dd>" for name, amount in lines
        ),
        "place": _place(session),
        "promotion": _promotion(session),
        "save": _save(session),
        "saved": _saved(shown_methods(world, session)),
        "title": "Subscribe" if session["mode"] == "subscription" else "Pay",
        "total": html.escape(shown_amount(total, currency)),
        "ways": _ways(session),
        "wrong": failed,
    }


def _item(line: Json, lines: list[Json]) -> str:
    """What is bought and how many, with a field where the customer may change that."""
    name = html.escape(f"{line['description']} × {line['quantity']}{_rhythm(line)}")
    allowed = checkout_quantities.limits(line, lines)
    if not allowed:
        return name
    return (
        f'{name}<label class="many">Quantity <input type="number" data-line="{line["id"]}"'
        f' min="{allowed[0]}" max="{allowed[1]}" value="{line["quantity"]}"></label>'
    )


def _saved(methods: list[Json]) -> str:
    """The cards of a returning customer, and another one."""
    if not methods:
        return ""
    cards = ((each["id"], each["card"]) for each in methods)
    names = {known: f"{card['brand'].title()} •••• {card['last4']}" for known, card in cards}
    choices = "".join(
        f'<div class="way"><input type="radio" name="saved" id="saved-{value}" value="{value}"'
        f'{" checked" if place == 0 else ""}><label for="saved-{value}">{name}</label></div>'
        for place, (value, name) in enumerate((names | {"": "Another payment method"}).items())
    )
    return f"<fieldset><legend>Saved cards</legend>{choices}</fieldset>"


def _save(session: Json) -> str:
    """Consent to have the card saved: https://docs.stripe.com/payments/checkout/save-during-payment"""
    if not may_save(session):
        return ""
    return (
        '<div class="way" data-new><input type="checkbox" id="save">'
        '<label for="save">Save my payment details for future purchases</label></div>'
    )


def _rhythm(line: Json) -> str:
    """How often it is paid; nothing for what is paid once."""
    recurring = line["price"]["recurring"]
    if recurring is None:
        return ""
    count, unit = recurring["interval_count"], recurring["interval"]
    return f", every {unit}" if count == 1 else f", every {count} {unit}s"


def _is_free(session: Json) -> bool:
    """Nothing to pay, and no card to be collected: https://docs.stripe.com/payments/checkout/no-cost-orders"""
    return bool(session["amount_total"] == 0 and session["payment_method_collection"] == "if_required")


def _email(world: World, session: Json) -> str:
    """An address that is known already cannot be changed."""
    known = (session["customer_details"] or {}).get("email")
    proposed = html.escape(known or world.store.note(session["id"]).get("prefilled") or "")
    fixed = " readonly" if known else ""
    return (
        '<div class="field"><label for="email">Email</label>'
        f'<input id="email" type="email" autocomplete="email" value="{proposed}"{fixed}></div>'
    )


def _ways(session: Json) -> str:
    kinds: list[MethodType] = [] if _is_free(session) else session["payment_method_types"]
    if len(kinds) < 2:
        return f'<input type="hidden" name="way" value="{kinds[0] if kinds else "none"}">'
    names: dict[str, str] = {kind: NAMES[kind] for kind in kinds}
    if "card" in kinds:
        names |= WALLETS  # they are cards, and no types of their own
    choices = "".join(
        f'<div class="way"><input type="radio" name="way" id="way-{kind}" value="{kind}"'
        f'{" checked" if place == 0 else ""}><label for="way-{kind}">{name}</label></div>'
        for place, (kind, name) in enumerate(names.items())
    )
    return f"<fieldset><legend>Pay with</legend>{choices}</fieldset>"


def _place(session: Json) -> str:
    if session["billing_address_collection"] != "required" and not session["automatic_tax"]["enabled"]:
        return ""
    return (
        '<div class="two"><div class="field"><label for="country">Country</label>'
        '<input id="country" autocomplete="country" value="US" maxlength="2"></div>'
        '<div class="field"><label for="postal">Postal code</label>'
        '<input id="postal" autocomplete="postal-code" value="94107"></div></div>'
    )


def _promotion(session: Json) -> str:
    if not session["allow_promotion_codes"]:
        return ""
    return (
        '<div class="field"><label for="code">Promotion code</label><div class="two">'
        '<input id="code" autocomplete="off"><button type="button" id="promote">Apply</button></div></div>'
    )
