"""The resync reads only rows that are newer than what browsers know, and misses none of these."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession
from paidup.domain.decisions import InvoiceStatus
from paidup.realtime import current_rows
from paidup.realtime.current_rows import read_current, read_newer
from paidup.realtime.hub import ACCOUNTS, CHECKOUTS, INVOICES, Topic
from paidup.runtime.clock import now
from tests.support.factories import an_account, an_invoice

pytestmark = pytest.mark.usefixtures("database")


async def _invoices(account: Account) -> list[str]:
    """Of each kind: waiting, told, and paid while the backend is awaited (one version less is told)."""
    soon = now() + timedelta(minutes=1)
    awaited: dict[str, Any] = {"status": InvoiceStatus.ACTIVE, "settled_at": now()}
    return [
        (await an_invoice(account)).id,
        (await an_invoice(account, version=7, status=InvoiceStatus.FAILED)).id,
        (await an_invoice(account, version=3, provisioning_until=soon, **awaited)).id,
    ]


async def _checkouts(account: Account, invoices: list[str]) -> list[str]:
    """In every state: whatever Stripe says of it, of nobody or of an account, with an invoice or without."""
    states = product(
        ("open", "complete", "expired"), ("paid", "unpaid"), (None, account.id), (None, *invoices)
    )
    rows = [
        CheckoutSession(
            id=f"cs_{number}",
            mode="subscription",
            status=status,
            payment_status=payment_status,
            account_id=owner,
            invoice=invoice,
            expires_at=now(),
            created_at=now(),
        )
        for number, (status, payment_status, owner, invoice) in enumerate(states)
    ]
    await CheckoutSession.bulk_create(rows)
    return [row.id for row in rows]


async def _topics() -> dict[Topic[Any, Any], list[Any]]:
    account, other = await an_account(), await an_account("other")
    merged = await an_account("merged")
    await Account.filter(id=account.id).update(version=5)
    await Account.filter(id=merged.id).update(merged_into=account.id)
    invoices = await _invoices(account)
    return {
        INVOICES: invoices,
        ACCOUNTS: [account.id, other.id, merged.id],
        CHECKOUTS: await _checkouts(account, invoices),
    }


async def test_a_row_that_is_newer_by_one_version_is_read() -> None:
    """S29: whatever state the row is in; a merged account has the other one's version."""
    for topic, keys in (await _topics()).items():
        current = dict(await read_current(topic, keys))
        assert len(current) == len(keys)
        known = {key: message.version - 1 for key, message in current.items()}
        newer = await read_newer(topic, known)
        assert {key: message.version for key, message in newer} == {
            key: version + 1 for key, version in known.items()
        }


async def test_rows_that_are_known_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands that wait, few have changed: the database compares their versions."""
    read: list[Any] = []

    async def recording(topic: Topic[Any, Any], keys: list[Any]) -> list[tuple[Any, Any]]:
        read.extend(keys)
        return await read_current(topic, keys)

    topics = await _topics()
    known = {
        topic: {key: message.version for key, message in await read_current(topic, keys)}
        for topic, keys in topics.items()
    }
    monkeypatch.setattr(current_rows, "read_current", recording)
    waiting, _, provisioning = topics[INVOICES]
    # Its next version is told without a write, once the backend has answered.
    expected = {waiting, provisioning}
    assert {key for key, _ in await read_newer(INVOICES, {**known[INVOICES], waiting: 0})} == expected
    assert await read_newer(ACCOUNTS, known[ACCOUNTS]) == []
    assert await read_newer(INVOICES, {"in_unknown": -1}) == []
    assert await read_newer(INVOICES, {}) == []
    assert {*read} == expected
