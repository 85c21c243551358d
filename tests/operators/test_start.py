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
HEAVY = STORAGE | SERVING | {"aiohttp", "structlog", "jwt", "paidup.settings"}


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
    assert imported_by(tmp_path, "init") == {"paidup.settings"}
    assert (tmp_path / ".env").is_file()


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
