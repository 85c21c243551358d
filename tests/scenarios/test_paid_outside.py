"""S58: an invoice that was paid by wire, or otherwise outside of Stripe, is credited once."""  # words: allow

from __future__ import annotations

import pytest

from paidup.credits.audit import audit_all
from paidup.db.models import Correction, CreditGrant, LedgerEntry
from paidup.errors import Conflict, NotFound
from paidup.operations.audit_log import Instruction
from paidup.operations.corrections import PaidBy
from paidup.operations.paid_outside import PaidOutside
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import Life, a_life


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def invoiced(life: Life) -> str:
    """An open invoice that Stripe has sent by e-mail: `collection_method: send_invoice`."""
    await life.balance()
    customer = await life.stripe.customer()
    made = await life.stripe.subscribe(
        customer, "pro", life.customer.name, collection_method="send_invoice", days_until_due=30
    )
    await life.calm()
    return str(made["latest_invoice"]["id"])


def ticket(number: int) -> Instruction:
    return Instruction("grace", "the bank's statement shows it", f"T-{number}")


async def marked_as_paid(life: Life, invoice: str) -> None:
    """https://docs.stripe.com/api/invoices/pay#pay_invoice-paid_out_of_band"""
    await life.stripe.api("POST", f"invoices/{invoice}/pay", paid_out_of_band="true")
    await life.calm()


async def test_an_invoice_paid_outside_of_stripe_is_credited_once(life: Life) -> None:
    """S58: an operator has it credited; Stripe marks it as paid later, and gives nothing more."""
    invoice = await invoiced(life)
    services = life.paidup.services
    outside = PaidOutside(services.verification, services.settlement, services.clock)
    name = life.customer.name
    done = await outside.grant(name, invoice, PaidBy.BANK_TRANSFER, ticket(1))
    assert await life.balance() == 2000
    assert done.details == {"invoice": invoice, "paid_by": "wire"}
    assert (done.before, done.after) == ({"status": "open"}, {"status": "active", "balance": 2000})
    assert await outside.grant(name, invoice, PaidBy.BANK_TRANSFER, ticket(1)) == done
    with pytest.raises(Conflict, match="already_settled"):
        await outside.grant(name, invoice, PaidBy.BANK_TRANSFER, ticket(2))
    await marked_as_paid(life, invoice)
    assert await life.balance() == 2000
    (entry,) = await LedgerEntry.all()
    assert entry.reason == "pro, paid outside of Stripe"
    status, shown = await life.customer.call("GET", f"/api/invoices/{invoice}")
    assert (status, shown["via"]) == (200, "operator")
    with pytest.raises(Conflict, match="already_settled"):
        await outside.grant(name, invoice, PaidBy.OTHER, ticket(3))
    await assert_books_balance(grants=1)
    assert await Correction.all().count() == 1


async def test_a_revoked_invoice_gives_nothing_unless_it_is_paid_after_all(life: Life) -> None:
    """S58: revoke undoes the grant; a payment that comes later is credited, once."""
    invoice = await invoiced(life)
    services = life.paidup.services
    outside = PaidOutside(services.verification, services.settlement, services.clock)
    await outside.grant(life.customer.name, invoice, PaidBy.BANK_TRANSFER, ticket(1))
    undone = await outside.revoke("T-1", ticket(2))
    assert await life.balance() == 0
    assert (undone.before["status"], undone.after) == ("active", {"status": "reversed", "balance": 0})
    assert await outside.revoke("T-1", ticket(2)) == undone
    with pytest.raises(Conflict, match="revoked already"):
        await outside.revoke("T-1", ticket(3))
    await marked_as_paid(life, invoice)
    assert await life.balance() == 2000
    assert await CreditGrant.all().count() == 1
    assert await audit_all() == []


async def test_what_cannot_have_been_paid_is_refused(life: Life) -> None:
    invoice = await invoiced(life)
    services = life.paidup.services
    outside = PaidOutside(services.verification, services.settlement, services.clock)
    await life.paidup.customer("bob").balance()
    with pytest.raises(Conflict, match="another account"):
        await outside.grant("bob", invoice, PaidBy.BANK_TRANSFER, ticket(1))
    with pytest.raises(NotFound):
        await outside.grant(life.customer.name, "in_none", PaidBy.BANK_TRANSFER, ticket(1))
    await life.stripe.api("POST", f"invoices/{invoice}/void")
    with pytest.raises(Conflict, match="void"):
        await outside.grant(life.customer.name, invoice, PaidBy.BANK_TRANSFER, ticket(1))
    assert await life.balance() == 0
    assert not await Correction.exists()
