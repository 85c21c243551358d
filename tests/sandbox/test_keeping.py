"""What survives a restart, and the settings from the environment."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from paidup_demo.sandbox.cards import passes_luhn, typed_card
from paidup_demo.sandbox.clock import add_interval
from paidup_demo.sandbox.errors import CardError
from paidup_demo.sandbox.settings import SandboxSettings, SettingsError, WebhookTarget
from paidup_demo.sandbox.state import Store, new_id
from paidup_demo.sandbox.world import World

from .rig import CARD_3DS, SECRET, Receiver, Sandbox, Server, settings, wait_until


async def test_a_restart_keeps_everything(tmp_path: Path, sandbox_receiver: Receiver) -> None:
    """Objects, the clock, keys, endpoints and delayed deliveries survive; conditions do not."""
    kept = settings(
        data_file=tmp_path / "state" / "sandbox.json", webhooks=(WebhookTarget(sandbox_receiver.url, SECRET),)
    )
    first = Server(kept).start()
    sandbox = Sandbox(first.url)
    await sandbox.control("/clock", {"advance_seconds": 1000})
    await sandbox.conditions(webhook_delay_ms=600_000)
    signup = await sandbox.subscribe()
    await signup.confirm(CARD_3DS)
    key = {"Idempotency-Key": "k"}
    made = await sandbox.raw("POST", "/v1/customers", headers=key)
    await sandbox.close()
    first.stop()

    second = Server(kept).start()
    sandbox = Sandbox(second.url)
    again = await sandbox.raw("POST", "/v1/customers", headers=key)
    assert again.body == made.body
    assert (await sandbox.call("GET", "/sandbox/clock")).body["offset_seconds"] == 1000
    assert (await sandbox.call("GET", "/sandbox/conditions")).body["webhook_delay_ms"] == 0
    assert len((await sandbox.v1.webhook_endpoints.list_async({})).data) == 1
    await sandbox.control(f"/payment_intents/{signup.intent}/authenticate", {"outcome": "pass"})
    assert (await sandbox.v1.invoices.retrieve_async(signup.invoice)).status == "paid"
    await wait_until(lambda: "invoice.paid" in sandbox_receiver.types())
    assert "customer.created" not in sandbox_receiver.types()
    await sandbox.control("/deliveries/flush")
    await wait_until(lambda: "customer.created" in sandbox_receiver.types())
    await sandbox.close()
    second.stop()


def test_a_file_of_another_version_is_not_overwritten(tmp_path: Path) -> None:
    """An unreadable state file is an error and is not overwritten."""
    file = tmp_path / "sandbox.json"
    file.write_text('{"format": 0}')
    with pytest.raises(ValueError, match="another version"):
        Store(file).load()
    assert file.read_text() == '{"format": 0}'


def test_settings_of_the_environment() -> None:
    """Every variable is read and optional."""
    assert SandboxSettings.from_env({}) == SandboxSettings()
    read = SandboxSettings.from_env(
        {
            "SANDBOX_HOST": "localhost",
            "SANDBOX_PORT": "9001",
            "SANDBOX_DATA": "state.json",
            "SANDBOX_WEBHOOK_URL": "http://127.0.0.1:8000/webhooks/stripe",
            "SANDBOX_WEBHOOK_SECRET": "whsec_1",
            "SANDBOX_ALLOWED_ORIGINS": "http://a.example, http://b.example",
            "SANDBOX_WEBHOOK_DELAY_MS": "5000",
        }
    )
    assert World(read).conditions.webhook_delay_ms == read.webhook_delay_ms == 5000
    assert (read.host, read.port, read.data_file) == ("localhost", 9001, Path("state.json"))
    assert read.webhooks == (WebhookTarget("http://127.0.0.1:8000/webhooks/stripe", "whsec_1"),)
    assert read.allowed_origins == ("http://a.example", "http://b.example")


@pytest.mark.parametrize(
    "env",
    [
        {"SANDBOX_WEBHOOK_DELAY_MS": "5 s"},
        {"SANDBOX_PORT": "eight"},
        {"SANDBOX_PORT": "70000"},
        {"SANDBOX_WEBHOOK_URL": "http://127.0.0.1/"},
        {"SANDBOX_WEBHOOK_URL": "http://127.0.0.1/", "SANDBOX_WEBHOOK_SECRET": "secret"},
    ],
)
def test_wrong_settings(env: dict[str, str]) -> None:
    """An invalid variable is named at startup."""
    with pytest.raises(SettingsError, match="SANDBOX_"):
        SandboxSettings.from_env(env)


def test_months_keep_their_day() -> None:
    """A subscription begun on the 31st renews on the last day of shorter months, and on the 31st again."""
    january = 1_769_817_600  # 2026-01-31 00:00 UTC
    february = add_interval(january, "month", 1, 31)
    assert february == 1_772_236_800  # 2026-02-28
    assert add_interval(february, "month", 1, 31) == 1_774_915_200  # 2026-03-31
    assert add_interval(january, "year", 1, 31) == 1_801_353_600  # 2027-01-31
    assert add_interval(january, "week", 2, 31) == january + 14 * 86400


def test_invalid_card_details() -> None:
    """Card details are validated as at Stripe."""
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    assert typed_card(card)[1]["last4"] == "4242"
    assert not passes_luhn("4242424242424241")
    wrong: list[dict[str, object]] = [
        {"number": "42"},
        {"exp_month": 13},
        {"exp_year": 2020},
        {"exp_year": 2200},
        {"cvc": "1"},
    ]
    for change in wrong:
        with pytest.raises(CardError):
            typed_card({**card, **change})


def test_an_id_is_random_letters_and_digits() -> None:
    ids = [new_id("in") for _ in range(1_000)]
    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {len("in_") + 24}
    assert {letter for each in ids for letter in each[3:]} == set(string.ascii_letters + string.digits)
    assert len(new_id("req", 14)) == len("req_") + 14
