"""`paidup init`: the files to start from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import ConfigurationError
from paidup.settings import ENV_FILE, PACKAGED_PLANS, load_settings
from tests.support.processes import Child

SECRETS = ("SECRET_KEY", "AUTH_JWT_SECRET", "OPERATOR_TOKEN", "STRIPE_WEBHOOK_SECRET")


def init(folder: Path, *options: str) -> tuple[int, str]:
    """Run `paidup init`; its exit code, and its output."""
    child = Child(
        ["-m", "paidup.cli", "init", *options], {}, folder.parent / f"{folder.name}.log", folder, forked=True
    )
    try:
        return child.process.wait(60), child.output
    finally:
        child.stop()


def test_the_files_of_a_sandbox_are_complete_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert init(tmp_path, "--sandbox")[0] == 0
    monkeypatch.chdir(tmp_path)
    settings = load_settings({}, ENV_FILE)
    assert settings.sandboxed
    assert settings.plans_file == Path("plans.toml")
    written = (tmp_path / "plans.toml").read_bytes()
    assert written == PACKAGED_PLANS.read_bytes()
    assert parse_catalogue(written).plans


def test_without_a_sandbox_only_the_values_of_the_stripe_account_are_missing(tmp_path: Path) -> None:
    code, output = init(tmp_path)
    assert code == 0
    assert "Next: fill in the Stripe keys in .env" in output
    with pytest.raises(ConfigurationError) as missing:
        load_settings({}, tmp_path / ".env")
    names = sorted(problem.split()[0] for problem in missing.value.problems)
    assert names == ["STRIPE_PUBLISHABLE_KEY", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"]


def test_the_secrets_are_new_each_time_and_never_printed(tmp_path: Path) -> None:
    seen: set[str] = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _, output = init(tmp_path / name, "--sandbox")
        lines = (tmp_path / name / ".env").read_text().splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        found = {values[secret] for secret in SECRETS}
        assert len(found) == len(SECRETS)
        assert not any(secret in output for secret in found)
        assert not found & seen
        seen |= found


def test_the_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paidup", "init"]
    subprocess.run(command, cwd=tmp_path, env={}, check=True, timeout=60, capture_output=True, umask=0)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", [".env", "plans.toml"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    code, output = init(tmp_path)
    assert code == 1
    assert " ".join(output.split()) == (
        f"error: {name} exists already; --force overwrites it. Nothing was written"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_force_overwrites_the_files_and_not_what_a_link_points_at(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / ".env").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "plans.toml").write_text("mine")
    assert init(tmp_path, "--force")[0] == 0
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not (tmp_path / ".env").is_symlink()
    assert (tmp_path / "plans.toml").read_bytes() == PACKAGED_PLANS.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env", "elsewhere", "plans.toml"]
