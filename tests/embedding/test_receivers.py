"""The receivers of events in Python, each by its framework's own test client: FastAPI, Flask, Django."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.db import connections
from django.test import Client
from flask.testing import FlaskClient
from standardwebhooks import Webhook

from paidup.runtime.clock import now
from tests.support.processes import ROOT

FOLDER = ROOT / "client_demo" / "paidup_demo" / "examples" / "receivers"
SECRET = "whsec_" + base64.b64encode(b"the secret of this endpoint 0001").decode()
OTHER = "whsec_" + base64.b64encode(b"the secret of somebody else 0002").decode()
PATH = "/hooks/paidup"
Post = Callable[[bytes, dict[str, str]], int]
Receiver = tuple[Post, Callable[[], list[tuple[Any, ...]]]]
"""Sends a body with headers and returns the status; and the accounts as the receiver has them."""


def message(account: str | None, version: int, balance: int) -> bytes:
    data = {"account": account, "version": version, "balance": balance, "invoice": "in_1", "credits": 10}
    event = {"type": "credits.granted", "timestamp": "2026-11-27T10:00:00Z", "data": data}
    return json.dumps(event).encode()


def signed(body: bytes, ident: str, secret: str = SECRET, age_s: int = 0) -> dict[str, str]:
    """The headers of a message. The first of two signatures is that of a secret being rotated out."""
    at = now() - timedelta(seconds=age_s)
    signature = Webhook(secret).sign(ident, at, body.decode())
    former = Webhook(OTHER).sign(ident, at, body.decode())
    return {
        "content-type": "application/json",
        "webhook-id": ident,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": f"{former} {signature}",
    }


def load(name: str) -> ModuleType:
    """The example as a module of its own, as it is in an application that copied it."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fastapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("PAIDUP_EVENTS_SECRET", SECRET)
    monkeypatch.setenv("DATABASE", str(tmp_path / "app.db"))
    module = load("fastapi_receiver")
    yield lambda body, headers: asyncio.run(_asgi_post(module.app, body, headers)), _kept(module)
    module.db.close()


async def _asgi_post(app: Any, body: bytes, headers: dict[str, str]) -> int:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(part: dict[str, Any]) -> None:
        sent.append(part)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": pairs}
    await app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.fixture
def flask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("PAIDUP_EVENTS_SECRET", SECRET)
    monkeypatch.setenv("DATABASE", str(tmp_path / "app.db"))
    module = load("flask_receiver")
    client: FlaskClient = module.app.test_client()
    yield lambda body, headers: client.post(PATH, data=body, headers=headers).status_code, _kept(module)
    module.db.close()


def _kept(module: ModuleType) -> Callable[[], list[tuple[Any, ...]]]:
    def accounts() -> list[tuple[Any, ...]]:
        with sqlite3.connect(module.db.execute("PRAGMA database_list").fetchone()[2]) as other:
            found = other.execute("SELECT id, version, balance FROM accounts").fetchall()
        other.close()
        return found

    return accounts


@pytest.fixture
def django_app(tmp_path: Path) -> Iterator[Receiver]:
    if not django_settings.configured:  # Django is configured once in a process
        django_settings.configure(
            PAIDUP_EVENTS_SECRET=SECRET,
            SECRET_KEY="of this test",
            ROOT_URLCONF="django_urls",
            ALLOWED_HOSTS=["testserver"],
            INSTALLED_APPS=["paidup_demo.examples.receivers"],
            MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            USE_TZ=True,
        )
        django.setup()
    from django.urls import path

    from paidup_demo.examples.receivers import django_receiver as module

    urls = ModuleType("django_urls")
    urls.urlpatterns = [path(PATH[1:], module.receive)]  # type: ignore[attr-defined]
    sys.modules["django_urls"] = urls
    connection = connections["default"]
    with connection.schema_editor() as editor:
        editor.create_model(module.PaidupEvent)
        editor.create_model(module.PaidupAccount)
    client = Client(enforce_csrf_checks=True)

    def post(body: bytes, headers: dict[str, str]) -> int:
        response = client.post(PATH, data=body, content_type=headers["content-type"], headers=headers)
        return int(response.status_code)

    yield post, lambda: list(module.PaidupAccount.objects.values_list("id", "version", "balance"))
    connection.close()


@pytest.mark.parametrize("framework", ["fastapi", "flask", "django_app"])
def test_a_receiver_takes_each_genuine_message_once_and_keeps_the_newest_version(
    framework: str, request: pytest.FixtureRequest
) -> None:
    """Genuine, forged, stale, repeated, and an older version that arrives later."""
    post, accounts = request.getfixturevalue(framework)
    first = message("ada", 7, 2000)
    assert post(first, signed(first, "msg_1")) == 204
    assert accounts() == [("ada", 7, 2000)]

    forged = message("ada", 8, 999_999)
    assert post(forged, signed(forged, "msg_2", secret=OTHER)) == 400
    assert post(forged, {**signed(first, "msg_2"), "webhook-id": "msg_2"}) == 400
    assert post(forged, {**signed(forged, "msg_2"), "webhook-signature": "v1,not base64"}) == 400
    assert post(b"\xff", signed(b"", "msg_2")) == 400
    assert post(forged, {"content-type": "application/json"}) == 400
    assert post(forged, signed(forged, "msg_2", age_s=600)) == 400
    assert accounts() == [("ada", 7, 2000)]

    again = message("ada", 9, 1)
    assert post(again, signed(again, "msg_1")) == 204, "it was handled under this id"
    older = message("ada", 6, 5)
    assert post(older, signed(older, "msg_3")) == 204
    assert accounts() == [("ada", 7, 2000)]

    newer, nobody = message("ada", 9, 1500), message(None, 0, 0)
    assert post(newer, signed(newer, "msg_4")) == 204
    assert post(nobody, signed(nobody, "msg_5")) == 204, "of no account: checkout.unclaimed"
    assert accounts() == [("ada", 9, 1500)]


def test_each_receiver_is_short() -> None:
    """An example that can be read in a minute: fewer than 30 lines, without the blank ones."""
    lines = {it.name: sum(map(bool, it.read_text().split("\n"))) for it in FOLDER.iterdir() if it.is_file()}
    assert len(lines) == 5
    assert not {name: count for name, count in lines.items() if count >= 30}
