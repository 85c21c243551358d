"""The exact frames of paidup.v1, which deployed browsers depend on."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import (
    BalanceMessage,
    Bye,
    CloseCode,
    Heartbeat,
    StatusMessage,
    decode_balance,
    decode_status,
    encode,
    is_verify,
)
from paidup.domain.payment_facts import PaymentError, Source
from paidup.domain.stages import Stage, stage_of

ACTIVE = StatusMessage(
    invoice="in_1",
    version=3,
    status=InvoiceStatus.ACTIVE,
    stage=Stage.ACTIVE,
    plan="pro",
    credits_granted=2000,
    balance=2040,
    via=Source.VERIFICATION,
    at=datetime(2026, 11, 23, 9, 0, 0, 123_000, UTC),
)


def test_a_status_message_matches_the_protocol() -> None:
    assert json.loads(encode(ACTIVE)) == {
        "type": "status",
        "invoice": "in_1",
        "version": 3,
        "status": "active",
        "stage": "active",
        "plan": "pro",
        "credits_granted": 2000,
        "balance": 2040,
        "via": "verification",
        "at": "2026-11-23T09:00:00.123000Z",
        "error": None,
        "checkout": None,
        "processing": None,
        "replaced_by": None,
    }


def test_a_balance_message_matches_the_protocol() -> None:
    assert json.loads(encode(BalanceMessage(7, 120, ACTIVE.at))) == {
        "type": "balance",
        "version": 7,
        "balance": 120,
        "at": "2026-11-23T09:00:00.123000Z",
        "held": 0,
    }


def test_an_error_has_a_code_a_message_and_a_decline_code() -> None:
    declined = PaymentError("card_declined", "Your card was declined.", "insufficient_funds")
    failed = msgspec.structs.replace(ACTIVE, status=InvoiceStatus.FAILED, error=declined)
    assert json.loads(encode(failed))["error"] == {
        "code": "card_declined",
        "message": "Your card was declined.",
        "decline_code": "insufficient_funds",
    }


def test_heartbeat_and_bye_match_the_protocol() -> None:
    assert encode(Heartbeat()) == b'{"type":"heartbeat"}'
    assert encode(Bye("restarting", 1200)) == (
        b'{"type":"bye","reason":"restarting","reconnect_after_ms":1200}'
    )


@given(
    st.builds(
        StatusMessage,
        invoice=st.text(min_size=1),
        version=st.integers(0, 2**31),
        status=st.sampled_from(InvoiceStatus),
        stage=st.sampled_from(Stage),
        plan=st.none() | st.text(),
        credits_granted=st.integers(0, 2**53),
        balance=st.integers(-(2**53), 2**53),
        via=st.none() | st.sampled_from(Source),
        at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        error=st.none() | st.builds(PaymentError, st.text(), st.text(), st.none() | st.text()),
    )
)
def test_a_status_message_survives_redis(status: StatusMessage) -> None:
    frame = encode(status)
    assert decode_status(frame) == decode_status(frame.decode()) == status


@given(st.integers(0, 2**31), st.integers(-(2**53), 2**53))
def test_a_balance_message_survives_redis_and_is_not_a_status(version: int, balance: int) -> None:
    message = BalanceMessage(version, balance, ACTIVE.at)
    frame = encode(message)
    assert decode_balance(frame) == decode_balance(frame.decode()) == message
    with pytest.raises(msgspec.DecodeError):
        decode_status(frame)
    with pytest.raises(msgspec.DecodeError):
        decode_balance(encode(ACTIVE))


@pytest.mark.parametrize("frame", ["", "{", "[]", '{"type":"heartbeat"}', '{"type":"status"}', '"status"'])
def test_other_frames_are_not_decoded_as_a_status(frame: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_status(frame)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ('{"type":"verify"}', True),
        (' { "type" : "verify" } ', True),
        ('{"type":"verify","invoice":"in_2"}', False),
        ('{"type":"status","status":"active"}', False),
        ('{"type":"Verify"}', False),
        ('{"type":null}', False),
        ('["verify"]', False),
        ("{}", False),
        ("verify", False),
        ("", False),
    ],
)
def test_verify_is_the_only_client_message(text: str, asks: bool) -> None:
    assert is_verify(text) is asks


@given(
    st.text()
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)
    ).map(json.dumps)
)
def test_no_client_frame_raises(text: str) -> None:
    assert is_verify(text) is (text == '{"type":"verify"}')


def test_every_status_has_a_stage_and_only_terminal_ones_a_final_stage() -> None:
    stages = {status: stage_of(status) for status in InvoiceStatus}
    ends = {Stage.ACTIVE, Stage.VOID}
    assert {status for status, stage in stages.items() if stage in ends} == {
        status for status in InvoiceStatus if status.terminal
    }


def test_the_close_codes_are_those_of_the_protocol() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        "FINISHED": 1000,
        "TOO_MUCH": 1008,
        "RESTARTING": 1012,
        "TRY_LATER": 1013,
        "WAITED_TOO_LONG": 4408,
    }
