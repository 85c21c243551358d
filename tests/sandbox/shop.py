"""A shop at the sandbox: prices, customers and Checkout Sessions."""

from __future__ import annotations

from typing import Any

from .rig import Json, Sandbox, check_shape


class Shop:
    """Prices, a customer, and sessions of a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.sessions = sandbox.v1.checkout.sessions

    async def once(self, amount: int = 500) -> str:
        """A one-time price."""
        product = await self.sandbox.v1.products.create_async({"name": "100 credits"})
        made = await self.sandbox.v1.prices.create_async(
            {"product": product.id, "currency": "usd", "unit_amount": amount}
        )
        return str(made.id)

    async def customer(self, **more: Any) -> str:
        """A customer with an e-mail address."""
        made = await self.sandbox.v1.customers.create_async({"email": "jenny@example.com", **more})
        return str(made.id)

    async def open(self, mode: str = "subscription", **more: Any) -> Any:
        """An open session of one price, hosted unless it is said otherwise."""
        if "line_items" not in more:
            price = (await self.sandbox.plan()).id if mode == "subscription" else await self.once()
            more["line_items"] = [{"price": price, "quantity": 1}]
        if more.get("ui_mode", "hosted_page") == "hosted_page":
            more.setdefault("success_url", "https://saas.example/done?s={CHECKOUT_SESSION_ID}")
        return await self.sessions.create_async({"mode": mode, **more})

    async def pay(self, session: Any, card: str | None = "pm_card_visa", **more: Any) -> Json:
        """Pay it as on its page."""
        body = {"card": card, "email": "typed@example.com", **more}
        return await self.sandbox.control(f"/checkout/{session.id}/complete", body)

    async def read(self, session: Any, *expand: str) -> Json:
        """The session as it is now, in Stripe's shape."""
        query = "&".join(f"expand[]={path}" for path in expand)
        reply = await self.sandbox.raw("GET", f"/v1/checkout/sessions/{session.id}?{query}")
        assert reply.status == 200, reply
        check_shape(reply.body)
        return reply.body
