"""What the commands import: `paidup --help`, `init` and `sandbox` start without the server's libraries."""

from __future__ import annotations

import inspect
import subprocess
import sys
from ast import literal_eval
from importlib import import_module
from pathlib import Path

import pytest
import typer

from paidup.cli import COMMANDS

STORAGE = {"tortoise", "asyncpg", "redis", "stripe", "prometheus_client", "paidup.services"}
SERVING = {"starlette", "uvicorn", "websockets"}
DRAWING = {"rich", "markdown_it", "pygments"}
UNUSED = {"requests.sessions", "urllib3", "charset_normalizer", "rich.markdown", "paidup.operations.doctor"}
"""What `paidup serve` has no use for; `requests` itself is a stand-in until something is used of it."""
HEAVY = STORAGE | SERVING | DRAWING | UNUSED | {"aiohttp", "asyncio", "structlog", "jwt", "paidup.settings"}


def imported_by(folder: Path, *arguments: str, **variables: str) -> set[str]:
    """Which of HEAVY `paidup` has imported when it ends."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('imported:', sorted({HEAVY!r} & set(sys.modules))))\n"
        f"sys.argv = ['paidup', *{arguments!r}]\n"
        "from paidup.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code]
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


def test_serve_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """It ends because settings are missing, when all of it is imported."""
    imported = imported_by(tmp_path, "serve")
    assert imported >= STORAGE | SERVING
    assert imported & UNUSED == set()


def test_a_deferred_module_is_loaded_when_it_is_used() -> None:
    code = """
from paidup.runtime.imports import quick_imports
with quick_imports():
    import stripe._http_client
import sys, gc, inspect
assert "requests.sessions" not in sys.modules and gc.isenabled()
assert "def quick_imports" in inspect.getsource(quick_imports.__wrapped__)
client = stripe.RequestsClient()
assert client.requests.Session().headers["User-Agent"].startswith("python-requests")
import requests
assert requests.sessions.Session is client.requests.Session
from requests.exceptions import Timeout
assert Timeout is requests.Timeout
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_sandbox_imports_nothing_of_the_servers_storage(tmp_path: Path) -> None:
    """It ends because its secret is wrong, when all of it is imported."""
    imported = imported_by(tmp_path, "sandbox", "--webhook-secret", "wrong")
    assert {"starlette", "paidup.settings"} <= imported
    assert imported & STORAGE == set()


def test_the_demo_imports_no_web_server(tmp_path: Path) -> None:
    """The server and the sandbox are its children. It ends because a setting is wrong."""
    imported = imported_by(tmp_path, "demo", SANDBOX_PORT="wrong")
    assert {"tortoise", "paidup.settings"} <= imported
    assert imported & SERVING == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_each_command_by_the_first_line_of_its_docstring(name: str) -> None:
    command = COMMANDS[name]
    found = getattr(import_module(f"paidup.commands.{command.module}"), command.function)
    text = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found)
    assert command.help == (text or "").splitlines()[0]
