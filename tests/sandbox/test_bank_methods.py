"""Payment methods other than cards: bank debits that take days, and redirects to a bank's page."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import stripe

from .rig import CARD_3DS, Json, Receiver, Reply, Sandbox, Signup, check_shape, wait_until

DAY = 24 * 3600
IBAN_SUCCEEDS = "AT611904300234573201"
IBAN_FAILS = "AT861904300235473202"
IBAN_DISPUTED = "AT591904300235473203"
IBAN_EMPTY = "AT981904300002222227"
BACK = "https://shop.example/back?order=7"


async def subscribe(sandbox: Sandbox, currency: str = "eur") -> Signup:
    plan = await sandbox.plan(currency=currency)
    return await sandbox.subscribe(items=[{"price": plan.id}])


async def confirm(sandbox: Sandbox, signup: Signup, kind: str, return_url: str = "", **account: str) -> Reply:
    """Confirm with a bank account, as a browser does."""
    form = {"client_secret": signup.secret, "payment_method_data[type]": kind}
    form |= {f"payment_method_data[{kind}][{name}]": value for name, value in account.items()}
    form |= {f"payment_method_data[billing_details][{name}]": name + "@a.eu" for name in ("name", "email")}
    if return_url:
        form["return_url"] = return_url
    return await sandbox.browser("POST", f"/v1/payment_intents/{signup.intent}/confirm", **form)


async def debit(sandbox: Sandbox, iban: str) -> Signup:
    """A subscription whose first invoice a SEPA debit is paying."""
    signup = await subscribe(sandbox)
    confirmed = await confirm(sandbox, signup, "sepa_debit", iban=iban)
    assert (confirmed.status, confirmed.body["status"]) == (200, "processing"), confirmed
    return signup


async def charge_of(sandbox: Sandbox, signup: Signup) -> Json:
    intent = await sandbox.v1.payment_intents.retrieve_async(signup.intent)
    return (await sandbox.raw("GET", f"/v1/charges/{intent.latest_charge}")).body


async def test_a_debit_is_processing_for_days_and_then_succeeds(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """The invoice stays open meanwhile, and the subscription is active from the confirmation on."""
    signup = await debit(sandbox_hooked, IBAN_SUCCEEDS)
    assert await signup.read() == ("processing", "open", "active")
    charge = await charge_of(sandbox_hooked, signup)
    check_shape(charge)
    details = charge["payment_method_details"]["sepa_debit"]
    assert (charge["status"], charge["paid"], details["last4"]) == ("pending", False, "3201")
    assert details["expected_debit_date"]
    await sandbox_hooked.control("/clock", {"advance_seconds": 4 * DAY})
    assert await signup.read() == ("processing", "open", "active")
    await sandbox_hooked.control("/clock", {"advance_seconds": 2 * DAY})
    assert await signup.read() == ("succeeded", "paid", "active")
    subscription = await sandbox_hooked.v1.subscriptions.retrieve_async(signup.subscription.id)
    method = (
        await sandbox_hooked.raw("GET", f"/v1/payment_methods/{subscription.default_payment_method}")
    ).body
    check_shape(method)
    assert (method["type"], method["sepa_debit"]["country"]) == ("sepa_debit", "AT")
    await wait_until(lambda: "invoice.paid" in sandbox_receiver.types())
    assert {"charge.pending", "payment_intent.processing", "charge.succeeded"} <= set(
        sandbox_receiver.types()
    )
    for event in (one.event for one in sandbox_receiver.received):
        check_shape(event["data"]["object"])


@pytest.mark.parametrize(
    ("iban", "code"),
    [(IBAN_FAILS, "payment_intent_payment_attempt_failed"), (IBAN_EMPTY, "insufficient_funds")],
)
async def test_a_debit_that_fails_days_later(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver, iban: str, code: str
) -> None:
    """The invoice is still open and the subscription past due; another method can pay it."""
    signup = await debit(sandbox_hooked, iban)
    await sandbox_hooked.control("/clock", {"advance_seconds": 6 * DAY})
    assert await signup.read() == ("requires_payment_method", "open", "past_due")
    intent = (await sandbox_hooked.raw("GET", f"/v1/payment_intents/{signup.intent}")).body
    check_shape(intent)
    error = intent["last_payment_error"]
    assert (error["type"], error["code"]) == ("card_error", code)
    charge = await charge_of(sandbox_hooked, signup)
    check_shape(charge)
    assert (charge["status"], charge["failure_code"]) == (
        "failed",
        "incorrect_account_holder_name" if iban == IBAN_FAILS else code,
    )
    await wait_until(lambda: "invoice.payment_failed" in sandbox_receiver.types())
    assert (await signup.confirm()).status == 200
    assert await signup.read() == ("succeeded", "paid", "active")


async def test_a_debit_that_is_disputed(sandbox_hooked: Sandbox) -> None:
    """It is final, and lost as it is opened, of ACH: https://docs.stripe.com/payments/ach-direct-debit

    And of SEPA: https://support.stripe.com/questions/sepa-direct-debit-payment-disputes
    """
    signup = await debit(sandbox_hooked, IBAN_DISPUTED)
    await sandbox_hooked.control(f"/payment_intents/{signup.intent}/decide")
    assert (await signup.read())[0] == "succeeded"
    (dispute,) = (await sandbox_hooked.raw("GET", "/v1/disputes")).body["data"]
    check_shape(dispute)
    assert (dispute["status"], dispute["payment_intent"]) == ("lost", signup.intent)


async def test_the_bank_answers_on_request(sandbox_bare: Sandbox) -> None:
    """The control ends the wait, with an outcome or the account's own; there is nothing to end twice."""
    signup = await debit(sandbox_bare, IBAN_SUCCEEDS)
    path = f"/payment_intents/{signup.intent}/decide"
    await sandbox_bare.control(path, {"outcome": "perhaps"}, expect=400)
    await sandbox_bare.control(path, {"outcome": "failed"})
    assert (await signup.read())[1:] == ("open", "past_due")
    await sandbox_bare.control(path, expect=400)


async def test_what_is_entered_wrong_is_refused(sandbox_bare: Sandbox) -> None:
    """A mistyped IBAN, a missing name, another currency's method, and a debit that is under way."""
    signup = await subscribe(sandbox_bare)
    wrong = await confirm(sandbox_bare, signup, "sepa_debit", iban="AT611904300234573202")
    assert wrong.body["error"]["code"] == "invalid_bank_account_iban"
    account = {"account_number": "000123456789", "routing_number": "110000000"}
    foreign = await confirm(sandbox_bare, signup, "us_bank_account", **account)
    assert "is not allowed for this PaymentIntent" in foreign.body["error"]["message"]
    form = {"client_secret": signup.secret, "payment_method_data[type]": "sepa_debit"}
    form["payment_method_data[sepa_debit][iban]"] = IBAN_SUCCEEDS
    path = f"/v1/payment_intents/{signup.intent}/confirm"
    nameless = await sandbox_bare.browser("POST", path, **form)
    assert nameless.body["error"]["code"] == "parameter_missing"
    assert (await confirm(sandbox_bare, signup, "sepa_debit", iban=IBAN_SUCCEEDS)).status == 200
    again = await signup.confirm()
    assert again.body["error"]["code"] == "payment_intent_unexpected_state"


async def test_us_bank_accounts(sandbox_bare: Sandbox) -> None:
    """The well-known accounts pay in dollars, fail, or stay in processing."""
    ends = {"success": "succeeded", "accountClosed": "requires_payment_method", "processing": "processing"}
    for name, status in ends.items():
        signup = await subscribe(sandbox_bare, "usd")
        confirmed = await signup.confirm(f"pm_usBankAccount_{name}")
        assert confirmed.body["status"] == "processing"
        check_shape(await charge_of(sandbox_bare, signup))
        await sandbox_bare.control("/clock", {"advance_seconds": 5 * DAY})
        assert (await signup.read())[0] == status


async def test_the_dynamic_methods_are_those_of_the_dashboard(sandbox_bare: Sandbox) -> None:
    """Without `payment_method_types` they follow the account's setting and the currency; with, the list."""

    async def kinds(signup: Signup) -> Any:
        intent = (await sandbox_bare.raw("GET", f"/v1/payment_intents/{signup.intent}")).body
        check_shape(intent)
        return intent["payment_method_types"]

    everywhere = ["card", "link"]
    assert await kinds(await subscribe(sandbox_bare)) == [*everywhere, "sepa_debit", "ideal", "bancontact"]
    assert await kinds(await subscribe(sandbox_bare, "usd")) == [*everywhere, "us_bank_account", "amazon_pay"]
    await sandbox_bare.conditions(payment_methods=["card", "ideal"])
    assert await kinds(await subscribe(sandbox_bare)) == ["card", "ideal"]
    listed = {"payment_method_types": ["sepa_debit"]}
    plan = await sandbox_bare.plan(currency="eur")
    explicit = await sandbox_bare.subscribe(items=[{"price": plan.id}], payment_settings=listed)
    assert await kinds(explicit) == ["sepa_debit"]


@pytest.mark.parametrize(("button", "status"), [("pass", "succeeded"), ("fail", "failed")])
async def test_a_redirect_comes_back_with_its_hints(sandbox_bare: Sandbox, button: str, status: str) -> None:
    """The bank's page sends the customer back to the `return_url`, with what Stripe adds to it."""
    signup = await subscribe(sandbox_bare)
    missing = await confirm(sandbox_bare, signup, "ideal")
    assert missing.body["error"]["param"] == "return_url"
    asked = (await confirm(sandbox_bare, signup, "ideal", BACK)).body
    assert asked["next_action"]["type"] == "redirect_to_url"
    there = asked["next_action"]["redirect_to_url"]
    assert there["return_url"] == BACK
    async with sandbox_bare.http.get(there["url"]) as shown:
        assert "Pay with iDEAL" in await shown.text()
    async with sandbox_bare.http.post(f"{there['url']}?outcome={button}", allow_redirects=False) as answer:
        assert answer.status == 303
        came = {key: value[0] for key, value in parse_qs(urlsplit(answer.headers["Location"]).query).items()}
    assert came == {
        "order": "7",
        "payment_intent": signup.intent,
        "payment_intent_client_secret": signup.secret,
        "redirect_status": status,
    }
    paid = status == "succeeded"
    assert (await signup.read())[1:] == (("paid", "active") if paid else ("open", "incomplete"))
    async with sandbox_bare.http.get(there["url"]) as gone:
        assert gone.status == 404


async def test_the_banks_pages_show_the_amount_in_its_currency(sandbox_bare: Sandbox) -> None:
    """A redirect's page and the check of 3-D Secure; some currencies have no cents."""
    euros, yen = await subscribe(sandbox_bare, "eur"), await subscribe(sandbox_bare, "jpy")
    await confirm(sandbox_bare, euros, "ideal", BACK)
    await yen.confirm(CARD_3DS)
    for path, amount in ((f"/bank/{euros.intent}", "20.00 EUR"), (f"/challenge/{yen.intent}", "2,000 JPY")):
        async with sandbox_bare.http.get(sandbox_bare.url + path) as shown:
            text = await shown.text()
        assert f"<dd>{amount}</dd>" in text
        assert 'href="/bank.css"' in text
    async with sandbox_bare.http.get(f"{sandbox_bare.url}/bank.css") as style:
        assert (style.status, style.content_type) == (200, "text/css")


async def test_a_bank_page_takes_no_answer_from_another_page(sandbox_bare: Sandbox) -> None:
    """A page of another origin cannot answer for the customer."""
    signup = await subscribe(sandbox_bare)
    await confirm(sandbox_bare, signup, "bancontact", BACK)
    url = f"{sandbox_bare.url}/bank/{signup.intent}?outcome=pass"
    async with sandbox_bare.http.post(url, headers={"Origin": "https://evil.example"}) as answer:
        assert answer.status == 403
    assert (await signup.read())[0] == "requires_action"


async def test_renewals_after_a_redirect_are_debits(sandbox_bare: Sandbox) -> None:
    """iDEAL saves the account as a SEPA debit, which is processing for days at each renewal."""
    signup = await subscribe(sandbox_bare)
    await confirm(sandbox_bare, signup, "ideal", BACK)
    await sandbox_bare.control(f"/payment_intents/{signup.intent}/authenticate", {"outcome": "pass"})
    charge = await charge_of(sandbox_bare, signup)
    check_shape(charge)
    subscription = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
    saved = charge["payment_method_details"]["ideal"]["generated_sepa_debit"]
    assert subscription.default_payment_method == saved
    method = (await sandbox_bare.raw("GET", f"/v1/payment_methods/{saved}")).body
    assert (method["type"], method["customer"]) == ("sepa_debit", signup.customer)
    await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    renewed = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
    invoice = await sandbox_bare.v1.invoices.retrieve_async(renewed.latest_invoice)
    assert (renewed.status, invoice.status) == ("active", "open")
    await sandbox_bare.control("/clock", {"advance_seconds": 6 * DAY})
    invoice = await sandbox_bare.v1.invoices.retrieve_async(renewed.latest_invoice)
    assert invoice.status == "paid"


async def test_a_refund_of_a_debit(sandbox_bare: Sandbox) -> None:
    """It has Stripe's shape; a payment in processing cannot be refunded, nor its invoice voided."""
    signup = await debit(sandbox_bare, IBAN_SUCCEEDS)
    with pytest.raises(stripe.InvalidRequestError):
        await sandbox_bare.v1.refunds.create_async({"payment_intent": signup.intent})
    with pytest.raises(stripe.InvalidRequestError):
        await sandbox_bare.v1.invoices.void_invoice_async(signup.invoice)
    await sandbox_bare.control(f"/payment_intents/{signup.intent}/decide")
    refund = await sandbox_bare.v1.refunds.create_async({"payment_intent": signup.intent})
    check_shape((await sandbox_bare.raw("GET", f"/v1/refunds/{refund.id}")).body)
