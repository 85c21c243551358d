"""Assembles the sandbox's parts; starts, stops and resets them."""

from __future__ import annotations

import asyncio
from collections import Counter

from paidup_demo.sandbox import objects
from paidup_demo.sandbox.agenda import Agenda
from paidup_demo.sandbox.clock import Clock
from paidup_demo.sandbox.conditions import Conditions
from paidup_demo.sandbox.delivery import WebhookSender
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.events import EventLog
from paidup_demo.sandbox.initial_catalogue import register_products
from paidup_demo.sandbox.settings import SandboxSettings
from paidup_demo.sandbox.state import Store, new_id

MAX_ENDPOINTS = 16
"""https://docs.stripe.com/webhooks: up to 16 for each account."""


class World:
    """One sandbox: its storage, clock, conditions, timers, events and webhook sender."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.conditions = Conditions(webhook_delay_ms=settings.webhook_delay_ms)
        self.store = Store(settings.data_file)
        self.agenda = Agenda(self.store)
        self.webhook_sender = WebhookSender(
            self.store, self.agenda, settings, lambda: self.conditions, self.clock.now
        )
        self.events = EventLog(self.store, self.clock, self.webhook_sender.dispatch)
        # API calls by kind of key, then by "METHOD route".
        self.calls: dict[str, Counter[str]] = {"secret": Counter(), "publishable": Counter()}
        self.reads: Counter[int] = Counter()
        """Reads with secret keys, by day."""

    def now(self) -> int:
        """The sandbox's time in whole seconds."""
        return self.clock.now()

    def real_now(self) -> int:
        """The real time in whole seconds, for payments."""
        return self.clock.real()

    async def start(self) -> None:
        """Load the state, add what the settings name, resume timers and deliveries."""
        self.store.load()
        self.clock.offset_s = int(self.store.extra.get("clock_offset_s", 0))
        self.register_configured()
        await self.webhook_sender.start()
        self.agenda.start()

    async def stop(self) -> None:
        """Stops timers and deliveries; both stay in the store, which is saved."""
        self.agenda.stop()
        await self.webhook_sender.stop()
        await self.save()

    async def save(self) -> None:
        """Writes the state if it has changed."""
        content = self.store.snapshot()
        if content is None:
            return
        try:
            await asyncio.to_thread(self.store.write, content)
        except OSError:
            self.store.touch()
            raise

    def forget(self) -> None:
        """Back to an empty sandbox, as it first started."""
        self.agenda.stop()
        self.webhook_sender.forget()
        self.store.clear()
        self.clock.offset_s = 0
        self.conditions = Conditions(webhook_delay_ms=self.settings.webhook_delay_ms)
        self.forget_calls()
        self.register_configured()

    def forget_calls(self) -> None:
        """Count calls and reads from zero."""
        self.reads.clear()
        for counter in self.calls.values():
            counter.clear()

    def advance(self, seconds: int) -> None:
        """Move the clock; the caller then runs what has become due."""
        self.clock.advance(seconds)
        self.store.extra["clock_offset_s"] = self.clock.offset_s
        self.store.touch()

    def register_configured(self) -> None:
        """Create what the settings name: products with their prices, and webhook endpoints."""
        register_products(self.store, self.now(), self.settings.products)
        self.register_endpoints()

    def register_endpoints(self) -> None:
        """Create the configured endpoints with their secrets, and remove those of earlier settings."""
        wanted = {target.url for target in self.settings.webhooks}
        for former in list(self.store.newest("webhook_endpoint")):
            if self.store.note(former["id"]).get("from_settings") and former["url"] not in wanted:
                del self.store.table("webhook_endpoint")[former["id"]]
        for target in self.settings.webhooks:
            known = next(self.store.newest("webhook_endpoint", url=target.url), None)
            made = known or self.add_endpoint(target.url, ["*"], api_version=target.api_version)
            self.store.note(made["id"]).update(secret=target.secret, from_settings=True)

    def add_endpoint(
        self,
        url: str,
        enabled_events: list[str],
        *,
        api_version: str | None = None,
        secret: str | None = None,
    ) -> Json:
        """Create a webhook endpoint and store its secret, up to Stripe's limit."""
        if len(self.store.table("webhook_endpoint")) >= MAX_ENDPOINTS:
            raise InvalidRequestError(f"You have reached the maximum of {MAX_ENDPOINTS} webhook endpoints.")
        made = self.store.add(objects.webhook_endpoint(self.real_now(), url, enabled_events, api_version))
        self.store.note(made["id"])["secret"] = secret or new_id("whsec", 32)
        return made
