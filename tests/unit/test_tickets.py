"""Tickets: signed, expiring tokens for the WebSocket of one invoice or one account."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner, URLSafeSerializer

from paidup.errors import NotAllowed, NotAuthenticated
from paidup.realtime.tickets import Tickets

TICKETS = Tickets("a secret key of the tests", 3600)
SUBPROTOCOL_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
invoice_ids = st.from_regex(r"in_[A-Za-z0-9_]{1,60}", fullmatch=True)


@given(invoice_ids, st.integers(1, 2**31))
def test_a_ticket_opens_its_invoice_names_its_account_and_fits_a_subprotocol(
    invoice: str, account_id: int
) -> None:
    ticket = TICKETS.issue(invoice, account_id)
    assert SUBPROTOCOL_TOKEN.fullmatch(ticket)
    assert TICKETS.check(ticket, invoice) == account_id


def test_a_ticket_opens_no_other_invoice() -> None:
    """S28: so another customer's ticket cannot be used."""
    with pytest.raises(NotAllowed):
        TICKETS.check(TICKETS.issue("in_1", 7), "in_2")


@given(st.data())
def test_an_altered_ticket_is_not_valid(data: st.DataObject) -> None:
    """S28: whichever character is altered."""
    ticket = TICKETS.issue("in_1", 7)
    # The last character of a part may carry bits that decoding ignores.
    place = data.draw(st.sampled_from([at for at in range(len(ticket) - 1) if ticket[at + 1] != "."]))
    same = {"_": "/", "-": "+"}.get(ticket[place])  # the other alphabet's letter for the same six bits
    chars = st.characters(codec="ascii").filter(lambda char: char not in (ticket[place], same))
    other = data.draw(chars)
    with pytest.raises(NotAuthenticated):
        TICKETS.check(ticket[:place] + other + ticket[place + 1 :], "in_1")


@given(st.text())
def test_any_text_is_refused_without_other_errors(ticket: str) -> None:
    with pytest.raises(NotAuthenticated):
        TICKETS.check(ticket, "in_1")


def test_a_ticket_of_another_key_or_salt_is_not_valid() -> None:
    others = (
        Tickets("another key of the tests", 3600).issue("in_1", 7),
        URLSafeSerializer("a secret key of the tests", salt="paidup.demo.customer").dumps("in_1"),
    )
    for other in others:
        with pytest.raises(NotAuthenticated):
            TICKETS.check(str(other), "in_1")


@pytest.mark.parametrize(("age_s", "good"), [(0, True), (3600, True), (3601, False)])
def test_a_ticket_expires(age_s: int, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """S28: and the refusal says that it has expired."""
    ticket = TICKETS.issue("in_1", 7)
    issued_at = TimestampSigner("any").get_timestamp()
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: issued_at + age_s)
    if good:
        TICKETS.check(ticket, "in_1")
        return
    with pytest.raises(NotAuthenticated, match="expired"):
        TICKETS.check(ticket, "in_1")


def test_the_expiry_of_a_ticket_is_known() -> None:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    assert TICKETS.expires_at(at) - at == timedelta(hours=1)


@given(st.integers(1, 2**31))
def test_a_ticket_for_an_account_names_it_and_fits_a_subprotocol(account_id: int) -> None:
    ticket = TICKETS.issue_for_account(account_id)
    assert SUBPROTOCOL_TOKEN.fullmatch(ticket)
    assert TICKETS.account_of(ticket) == account_id


@given(invoice_ids, st.integers(1, 2**31))
def test_a_ticket_of_one_kind_opens_nothing_of_the_other(invoice: str, account_id: int) -> None:
    """S28: even if the invoice's id equals the account's."""
    with pytest.raises(NotAuthenticated):
        TICKETS.account_of(TICKETS.issue(invoice, 7))
    with pytest.raises(NotAuthenticated):
        TICKETS.account_of(TICKETS.issue(str(account_id), 7))
    with pytest.raises(NotAuthenticated):
        TICKETS.check(TICKETS.issue_for_account(account_id), str(account_id))


@given(st.text())
def test_no_text_is_an_account_ticket(ticket: str) -> None:
    with pytest.raises(NotAuthenticated):
        TICKETS.account_of(ticket)
