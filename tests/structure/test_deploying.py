"""Deployment files match the code: commands, settings, ports, versions and stop timeouts."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main
import yaml

from paidup.cli import app
from paidup.runtime.secret_files import FROM_FILES
from paidup.settings import NAMES, Settings
from paidup.uvicorn_server import UVICORN
from paidup.web.websocket.endpoint import CLOSE_TIMEOUT_S, MAX_MISSED_HEARTBEATS, TICK_S
from tests.structure.sources import ROOT

COMMANDS = set(typer.main.get_group(app).commands)
OUTSIDE = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def default_of(name: str) -> Any:
    return next(field.default for field in msgspec.structs.fields(Settings) if field.encode_name == name)


SILENT_S = MAX_MISSED_HEARTBEATS * default_of("HEARTBEAT_S") + TICK_S
"""How long a WebSocket may be silent before Paidup itself closes it: no proxy may be faster."""
STOP_S = default_of("SHUTDOWN_DRAIN_S") + CLOSE_TIMEOUT_S + UVICORN["timeout_graceful_shutdown"]
"""The longest graceful shutdown: drain, closing handshakes, and requests in progress."""


@cache
def dockerfile() -> list[tuple[str, str]]:
    """Return instructions and their arguments, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def arguments_of(instruction: str) -> list[str]:
    return [what for name, what in dockerfile() if name == instruction]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@cache
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_the_image_runs_paidup_as_an_unprivileged_user() -> None:
    assert json.loads(arguments_of("ENTRYPOINT")[0]) == ["paidup"]
    assert set(json.loads(arguments_of("CMD")[0])) <= COMMANDS
    assert arguments_of("USER") == ["10001"]
    assert arguments_of("STOPSIGNAL") == ["SIGTERM"]
    health = arguments_of("HEALTHCHECK")[0].partition("CMD ")[2]
    assert json.loads(health)[0] == "python"


def test_the_image_uses_the_packages_python_and_pins() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    versions = {re.search(r"python:(\d+\.\d+)", each)[1] for each in arguments_of("FROM")}  # type: ignore[index]
    assert {f">={version}" for version in versions} == {wanted}
    wanted = "--require-hashes --only-binary :all: -r requirements/build.txt -r requirements/otel.txt"
    assert any(wanted in each for each in arguments_of("RUN"))


def test_the_image_sets_only_known_settings() -> None:
    given = dict(re.findall(r"(\w+)=(\S+)", " ".join(arguments_of("ENV")[1:])))
    assert set(given) - OUTSIDE <= set(NAMES)
    assert arguments_of("EXPOSE") == [given["PORT"]] == [str(default_of("PORT"))]


def ignored(path: str) -> bool:
    """Whether .dockerignore excludes the path: the last pattern that matches it, or a parent, decides."""
    decided = False
    above = [path, *map(str, Path(path).parents)][:-1]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        names = (pattern, pattern.removeprefix("**/"))
        if any(
            fnmatch.fnmatchcase(part, name) or (pattern.startswith("**/") and Path(part).match(name))
            for part in above
            for name in names
        ):
            decided = not line.startswith("!")
    return decided


@pytest.mark.parametrize("path", [".env", ".git/config", "server/.env.local", ".paidup/p.db", "tests/x.py"])
def test_the_image_excludes(path: str) -> None:
    assert ignored(path)


def test_the_image_includes_what_it_copies() -> None:
    sources = [name for each in arguments_of("COPY") if "--from" not in each for name in each.split()[:-1]]
    assert sources
    assert [name for name in sources if ignored(name) or not (ROOT / name).exists()] == []
    assert not ignored("server/paidup/web/operators/templates/base.html")


@pytest.mark.parametrize("name", ["migrate", "server", "worker"])
def test_each_paidup_service_is_a_command_with_settings(name: str) -> None:
    service = compose()["services"][name]
    assert set(service["command"]) <= COMMANDS
    files = {f"{setting}_FILE": setting for setting in FROM_FILES}
    assert set(service["environment"]) <= {*NAMES, *files}
    assert service["env_file"] == ".env"
    named = {value for setting, value in service["environment"].items() if setting in files}
    assert named == {f"/run/secrets/{secret}" for secret in service["secrets"]}
    assert service["configs"] == [{"source": "plans", "target": service["environment"]["PLANS_FILE"]}]


def test_each_paidup_service_is_unprivileged_and_writes_nothing() -> None:
    for name in ("migrate", "server", "worker"):
        service = compose()["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_secrets_and_plans_are_files_that_git_and_the_image_leave_out() -> None:
    listed = {name: each["file"] for name, each in compose()["secrets"].items()}
    assert listed == {name: f"./secrets/{name}" for name in listed}
    used = {secret for service in compose()["services"].values() for secret in service.get("secrets", [])}
    assert used == set(listed)
    assert compose()["configs"] == {"plans": {"file": "./plans.toml"}}
    left_out = (ROOT / ".gitignore").read_text().splitlines()
    for path in ("/secrets/", "/plans.toml"):
        assert path in left_out
        assert ignored(path.strip("/"))


def test_the_services_start_and_stop_in_order() -> None:
    services = compose()["services"]
    for name in ("server", "worker"):
        conditions = {on: how["condition"] for on, how in services[name]["depends_on"].items()}
        assert conditions == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "valkey": "service_healthy",
        }
        assert seconds(services[name]["stop_grace_period"]) > STOP_S
    for name in ("postgres", "valkey"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert services["server"]["ports"] == [
        f"{default_of('PORT')}:{services['server']['environment']['PORT']}"
    ]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_valid(path: Path, tmp_path: Path) -> None:
    """Its command exists, and its stop timeout is longer than a graceful shutdown."""
    text = path.read_text()
    command = re.search(r"^ExecStart=(\S+)/paidup (\w+)$", text, re.MULTILINE)
    assert command is not None
    assert command[2] in COMMANDS
    if command[2] == "serve":
        assert float(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) > STOP_S  # type: ignore[index]
    given = " ".join(re.findall(r"^Environment=(.*)$", text, re.MULTILINE))
    assert set(re.findall(r"(\w+)=", given)) <= set(NAMES)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # Unchanged except for the path where paidup is installed.
    for unit in UNITS:
        placed = tmp_path / unit.name.replace("@", "@8000")
        placed.write_text(unit.read_text().replace(command[1], str(Path(sys.executable).parent)))
    name = tmp_path / path.name.replace("@", "@8000")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(name)],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_nginx_timeouts_and_body_size_fit_the_settings() -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    timeouts = re.findall(r"^\s+proxy_(?:read|send)_timeout (\d+)s;$", text, re.MULTILINE)
    assert len(timeouts) == 2
    assert min(map(int, timeouts)) > SILENT_S
    size = re.search(r"client_max_body_size (\d+)m;", text)
    assert size is not None
    assert int(size[1]) * 1024 * 1024 > default_of("WEBHOOK_MAX_BYTES")


def test_haproxy_timeouts_and_body_size_fit_the_settings() -> None:
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    timeouts = dict(re.findall(r"^    timeout (\S+) (\d+)s$", text, re.MULTILINE))
    for name in ("client", "server", "tunnel"):
        assert int(timeouts[name]) > SILENT_S
    size = re.search(r"req\.body_size gt (\d+)", text)
    assert size is not None
    assert int(size[1]) > default_of("WEBHOOK_MAX_BYTES")


def test_caddys_timeouts_and_body_size_fit_the_settings() -> None:
    """It has no idle timeout for a WebSocket, unless one is set: `idle` is that of keep-alive."""
    text = (ROOT / "deploy" / "Caddyfile").read_text()
    assert not re.search(r"^\s*(stream_timeout|read_timeout|write_timeout)\b", text, re.MULTILINE)
    size = re.search(r"max_size (\d+)MB", text)
    assert size is not None
    assert int(size[1]) * 1000 * 1000 > default_of("WEBHOOK_MAX_BYTES")


def test_nginx_accepts_the_configuration(tmp_path: Path) -> None:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    site = re.sub(r"\n\s+ssl_\w+ .*", "", (ROOT / "deploy" / "nginx.conf").read_text())
    (tmp_path / "site.conf").write_text(site.replace("443 ssl", "127.0.0.1:8443"))
    whole = f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ include {tmp_path}/site.conf; }}"
    (tmp_path / "nginx.conf").write_text(whole)
    command = [nginx, "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
