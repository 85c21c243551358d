"""Take up the subscriptions that exist in Stripe already (`paidup import`).

Idempotent, and can be interrupted at any time: each subscription is taken up by itself. Nothing is
credited for what was paid before, unless the current period is asked for; the settlement grants it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from functools import partial

import msgspec
import structlog

from paidup.credits import ledger
from paidup.db.accounts import find_account, surviving
from paidup.db.connection import storage_errors, write_transaction
from paidup.db.customers import account_id_of, link_customer
from paidup.db.models import Account, Invoice, Subscription
from paidup.domain.payment_facts import Source
from paidup.domain.quotes import quote
from paidup.errors import StripeRefused
from paidup.payments.outcomes import Outcome
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock
from paidup.stripe_api.customers import SubscribedCustomer
from paidup.stripe_api.gateway import RUNNING, StripeGateway
from paidup.stripe_api.pagination import pages
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import ACCOUNT_METADATA_KEY, StripeInvoice
from paidup.subscriptions.sync import SubscriptionSync

log = structlog.get_logger(__name__)

MAX_WAIT_S = 60.0
"""How long a page waits for the rate limiter, which serves customers first."""
MAX_NAME = 200
"""The longest user id, as in a token."""
SHOWN = 100
"""How many subscriptions without an account are listed by name."""


class ImportOutcome(StrEnum):
    """What became of one subscription, or would in a dry run."""

    TAKEN_UP = "taken_up"
    ALREADY_KNOWN = "already_known"
    UNKNOWN_ACCOUNT = "unknown_account"
    """It is ours, and nothing says whose it is."""
    NOT_OURS = "not_ours"
    NOT_RUNNING = "not_running"
    """Its first payment is pending: it is taken up once it is paid."""
    FAILED = "failed"


class ImportOptions(msgspec.Struct, frozen=True):
    """`account_metadata`: the SaaS's own metadata key for its user ids, beside `paidup_account`."""

    account_metadata: str | None = None
    credit_current_period: bool = False
    dry_run: bool = False


class WithoutAccount(msgspec.Struct, frozen=True):
    """A subscription of ours whose account is not known."""

    subscription: str
    customer: str


class ImportReport(msgspec.Struct):
    """The result, filled while the import runs. `credits` were granted, or would be."""

    dry_run: bool = False
    outcomes: Counter[ImportOutcome] = msgspec.field(default_factory=Counter)
    credited: int = 0
    credits: int = 0
    without_account: list[WithoutAccount] = msgspec.field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every subscription of ours is followed now."""
        return not (self.outcomes[ImportOutcome.UNKNOWN_ACCOUNT] or self.outcomes[ImportOutcome.FAILED])

    def lines(self) -> list[str]:
        """The report for a terminal."""
        would = "would be " if self.dry_run else ""
        shown = [f"{self.outcomes.total()} subscriptions that have not ended"]
        shown += [f"{number:8} {outcome}" for outcome, number in sorted(self.outcomes.items())]
        shown += [f"{each.subscription} of {each.customer}: no account" for each in self.without_account]
        past = "; nothing for earlier payments" if self.credited else ": nothing is credited for the past"
        shown.append(f"{self.credits} credits {would}granted for {self.credited} current periods{past}")
        return shown


class SubscriptionImport:
    def __init__(
        self,
        gateway: StripeGateway,
        prices: PriceCatalog,
        subscriptions: SubscriptionSync,
        verification: Verification,
        clock: Clock,
        options: ImportOptions,
        report: ImportReport,
    ) -> None:
        self._gateway = gateway
        self._prices = prices
        self._subscriptions = subscriptions
        self._verification = verification
        self._clock = clock
        self._options = options
        self._report = report
        report.dry_run = options.dry_run

    async def run(self, on_progress: Callable[[int], None] = lambda done: None) -> None:
        """Go through all subscriptions that have not ended, newest first.

        Raises StripeError where a page cannot be read; what was taken up before stays so.
        """
        requested_at = self._clock()
        fetch = partial(self._gateway.customers.list_subscribed, max_wait_s=MAX_WAIT_S)
        async for page in pages(fetch):
            for found in page.data:
                try:
                    outcome = await self._import(found, requested_at)
                except (StripeRefused, msgspec.DecodeError) as error:
                    log.warning("import_failed", subscription=found.id, error=str(error))
                    outcome = ImportOutcome.FAILED
                self._report.outcomes[outcome] += 1
                on_progress(self._report.outcomes.total())
            requested_at = self._clock()

    async def _import(self, found: SubscribedCustomer, requested_at: datetime) -> ImportOutcome:
        current = found.subscription
        if current.named_account is None and not self._subscriptions.sells_plan(current):
            return ImportOutcome.NOT_OURS
        if current.status not in RUNNING:
            return ImportOutcome.NOT_RUNNING
        with storage_errors():
            known = await Subscription.get_or_none(id=current.id)
            account = await (Account.get(id=known.account_id) if known else self._account_of(found))
        if account is None:
            if len(self._report.without_account) < SHOWN:
                self._report.without_account.append(WithoutAccount(current.id, current.customer))
            return ImportOutcome.UNKNOWN_ACCOUNT
        if not self._options.dry_run:
            await self._take_up(found, account, requested_at)
        await self._credit(found, account)
        if known is None and not self._options.dry_run:
            # The latest is not paid: what was paid before it is not credited either.
            new = Subscription.filter(id=current.id, paid_elsewhere__isnull=True)
            await new.update(paid_elsewhere="")
        return ImportOutcome.ALREADY_KNOWN if known else ImportOutcome.TAKEN_UP

    async def _account_of(self, found: SubscribedCustomer) -> Account | None:
        """Whose it is: its metadata says so, or a known customer, or that customer's metadata."""
        name = self._named(found.subscription.metadata)
        owner = None if name else await account_id_of(found.customer.id)
        if owner is not None:
            return await Account.get(id=owner)
        name = name or self._named(found.customer.metadata)
        if name is None:
            return None
        if self._options.dry_run:
            return await find_account(name) or Account(external_id=name)
        account, _ = await Account.get_or_create(external_id=name)
        return await surviving(account)

    def _named(self, metadata: dict[str, str] | None) -> str | None:
        keys = (ACCOUNT_METADATA_KEY, self._options.account_metadata)
        values = [(metadata or {}).get(key) for key in keys if key]
        return next((name for name in values if name and len(name) <= MAX_NAME and name.isprintable()), None)

    async def _take_up(self, found: SubscribedCustomer, account: Account, requested_at: datetime) -> None:
        async with write_transaction():
            await ledger.lock_account(account.id)
            await link_customer(account.id, found.customer.id)
        await self._subscriptions.take_up(found.subscription, account, requested_at, imported=True)

    async def _credit(self, found: SubscribedCustomer, account: Account) -> None:
        """Settle the latest invoice: one that is not paid yet, and on request the one of this period."""
        latest = found.subscription.latest_invoice
        if not isinstance(latest, StripeInvoice):
            return
        with storage_errors():
            settled = await Invoice.exists(id=latest.id, settled_at__not_isnull=True)
        if settled or (latest.status == "paid" and not self._options.credit_current_period):
            return
        if self._options.dry_run:
            facts = latest.facts().invoice
            assert facts is not None
            given = quote(facts.lines, self._prices.catalogue, self._prices).at_once
            self._count(given if latest.status == "paid" else 0)
            return
        if latest.lines.has_more:
            latest = await self._gateway.read_invoice(latest.id, MAX_WAIT_S)
        done = await self._verification.settle(latest.facts(), Source.RECONCILIATION, account.id)
        if done.outcome is Outcome.SETTLED and done.status is not None:
            self._count((await Invoice.get(id=latest.id)).credits_quoted)

    def _count(self, credits: int) -> None:
        if credits > 0:
            self._report.credited += 1
            self._report.credits += credits
