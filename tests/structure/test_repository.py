"""What is kept in the repository: nothing of one machine, nothing secret, migrations and pins up to date."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tortoise import Tortoise
from tortoise.migrations.autodetector import MigrationAutodetector

from paidup.db.connection import TORTOISE
from tests.structure.sources import ROOT, tracked
from tests.support import node

TEXTS = [path for path in tracked() if path.suffix not in {".png", ".jpg", ".ico", ".woff2", ".gif", ".webp"}]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>\S+) \\$", re.MULTILINE)


def matches(pattern: str) -> list[str]:
    """Where `pattern` occurs in what git keeps."""
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if wanted.search(line)
    ]


def test_no_path_of_a_machine_is_in_the_repository() -> None:
    """Neither this clone's own folder nor anybody's home."""
    here = {str(ROOT), str(Path.home()), str(ROOT.parent)} - {"/", "/root"}
    assert matches("|".join(re.escape(f"{path}/") for path in sorted(here))) == []
    assert matches("(?<![\\w.])/" + "(?:home|Users|root|work)/[a-z]") == []


def test_no_registry_is_named_in_the_repository() -> None:
    """Packages come from wherever the user's own pip is pointed."""
    hosts = ["pypi" + r"\.org", "pythonhosted" + r"\.org", "registry\\." + r"npmjs\.org"]
    options = [
        r"(?:^|\s)--(?:extra-)?index" + r"-url[ =]\S",
        r"(?:^|\s)--find" + "-links",
        r"(?:^|\s)--trusted" + "-host",
    ]
    assert matches("|".join([*hosts, *options])) == []


def test_no_lock_file_with_addresses_is_in_the_repository() -> None:
    """npm's packages are pinned by version and hash alone; what is installed was found among them."""
    locks = {"package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "uv.lock"}
    assert [path for path in tracked() if path.name in locks] == []
    pinned = node.HASHES.read_text().splitlines()
    assert all(re.fullmatch(r"\S+@[\d.]+ sha512-[\w+/]+=*", line) for line in pinned)
    if node.INSTALLED.exists():
        assert node.hashes(node.INSTALLED) <= set(pinned)


def test_no_key_of_a_real_account_is_in_the_repository() -> None:
    """Stripe's keys are long; those of tests and examples are words."""
    assert matches(r"(?:sk|rk)_" + r"(?:live|test)_[A-Za-z0-9]{20,}|whsec_" + r"[A-Za-z0-9+/]{30,}") == []


def test_there_are_requirements_for_use_and_for_development() -> None:
    names = {"build.txt", "server.txt", "otel.txt", "demo.txt", "dev.txt"}
    assert {path.name for path in REQUIREMENTS} == names


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_with_hashes_and_without_addresses(path: Path) -> None:
    text = path.read_text()
    pins = list(PIN.finditer(text))
    assert pins
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert [
        line for line in lines if not re.match(r"^\S+==\S+ \\$|^    --hash=sha256:[0-9a-f]{64}( \\)?$", line)
    ] == []
    for pin, following in zip(pins, [*pins[1:], None], strict=True):
        block = text[pin.end() : following.start() if following else len(text)]
        assert "--hash=sha256:" in block, pin["name"]
    assert "://" not in text


def test_every_dependency_of_the_package_is_pinned() -> None:
    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9._-]", each)[0].lower().replace("_", "-") for each in requirements}

    pinned = {
        path.name: names([pin["name"] for pin in PIN.finditer(path.read_text())]) for path in REQUIREMENTS
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    server = names([*project["dependencies"], *extras["server"]])
    demo = server | names(extras["demo"])
    everything = names([each for extra in extras.values() for each in extra])
    assert server <= pinned["server.txt"]
    assert demo - {"paidup"} <= pinned["demo.txt"]
    assert everything - {"paidup"} <= pinned["dev.txt"]


def test_the_build_backend_is_pinned() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    pinned = {pin["name"] for pin in PIN.finditer((ROOT / "requirements/build.txt").read_text())}
    assert {re.split(r"[^a-z0-9-]", each)[0] for each in asked} <= pinned


FETCHES = re.compile(
    r"\b(?:pip3? (?:install|wheel|download)|npm (?:install|ci)|npx|pipx|uvx"
    r"|uv (?:pip (?:install|sync)|tool|run|add|sync)) .*"
)
PINNED = ("--require-hashes", "--only-binary :all:")
LOCAL = ("--no-index", "--no-deps", "--no-build-isolation")
RECIPES = [
    path
    for path in tracked()
    if path.name in {"Makefile", "Dockerfile", "run", "Procfile", "compose.yaml"} or path.suffix == ".md"
    if path.name not in {"CHANGELOG.md", "decisions.md"}
]


def unpinned(text: str) -> list[str]:
    """What this recipe or document would fetch without a hash, or build with a backend that has none."""
    commands = [found[0] for found in FETCHES.finditer(text.replace("\\\n", " "))]
    return [
        command
        for command in commands
        if not any(all(option in command for option in wanted) for wanted in (PINNED, LOCAL))
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_installed_without_a_hash(path: Path) -> None:
    """Packages by hash and as wheels, or this folder's own code with the pinned backend.

    Exempt is the Chromium of .ci/run: apt checks Debian's signatures.
    """
    assert unpinned(path.read_text()) == []


async def test_the_migrations_are_up_to_date_with_the_models() -> None:
    """`make migrations` would write nothing."""
    await Tortoise.init(config=TORTOISE, _enable_global_fallback=True)
    try:
        assert Tortoise.apps is not None
        changes = await MigrationAutodetector(Tortoise.apps, TORTOISE["apps"]).changes()
        assert [change.name for change in changes] == []
    finally:
        await Tortoise.close_connections()


def test_what_the_procfile_runs_are_commands_of_ours() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line)
    assert lines == {"release": "paidup migrate", "web": "paidup serve", "worker": "paidup work"}


def test_make_names_a_python_that_is_too_old(tmp_path: Path) -> None:
    """Before anything is installed: pip would only say that it finds no version of a package."""
    old = tmp_path / "python3.10"
    pretends = "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[2])"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{pretends}' \"$@\"\n")
    old.chmod(0o700)
    made = tmp_path / "venv"
    command = ["make", f"PYTHON={old}", f"VENV={made}", f"{made}/bin/python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert f"{old} is Python 3.10, and Paidup needs 3.11 or newer" in done.stderr
    assert not made.exists()
