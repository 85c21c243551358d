"""Files with secrets or data, and sockets: no other user can read or replace them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paidup.db.connection import connection, migrate, open_database
from paidup.errors import ConfigurationError
from paidup.runtime.embedded_valkey import embedded_valkey, socket_path
from paidup.runtime.private_files import private_directory, private_file
from paidup_demo import supervisor
from paidup_demo.sandbox.state import Store
from paidup_demo.timeline.fault_injection import FaultInjector, control_socket


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """The most permissive umask."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder(scratch: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with a short name and the permissions of /tmp."""
    made = scratch / tmp_path.name[-20:]
    made.mkdir()
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


def open_to_others(path: Path) -> list[str]:
    """What other users may read, write or enter below `path`. Links are followed."""
    found = [each for each in (path, *path.rglob("*")) if not each.is_symlink()]
    return [str(each) for each in found if each.stat().st_mode & 0o077]


def names_in(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()}


async def test_the_database_and_its_journals_are_this_users_alone(folder: Path) -> None:
    file = folder / "data" / "paidup.db"
    await migrate(f"sqlite://{file}")
    async with open_database(f"sqlite://{file}"):
        await connection().execute_query("SELECT count(*) FROM accounts")
        assert names_in(folder / "data") == {
            *("paidup.db", "paidup.db-wal", "paidup.db-shm"),
            "paidup.db.migrating",
        }
        assert open_to_others(folder / "data") == []


async def test_a_database_readable_by_others_is_made_private(folder: Path) -> None:
    """A database of an older version, which another process has open."""
    file = folder / "paidup.db"
    await migrate(f"sqlite://{file}")
    other = sqlite3.connect(file)
    other.execute("SELECT count(*) FROM accounts").fetchall()
    for suffix in ("", "-wal", "-shm"):
        os.chmod(f"{file}{suffix}", 0o644)
    async with open_database(f"sqlite://{file}"):
        assert open_to_others(folder) == [str(folder)]
    other.close()


async def test_a_journal_may_be_deleted_while_it_is_made_private(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SQLite, in the last other process that has the database open, as that closes it."""
    (folder / "paidup.db-wal").touch()
    chmod = Path.chmod

    def delete_first(path: Path, mode: int) -> None:
        path.unlink()
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", delete_first)
    async with open_database(f"sqlite://{folder}/paidup.db"):
        assert await connection().execute_query_dict("SELECT 1 AS one") == [{"one": 1}]


def test_an_existing_database_file_is_not_opened(folder: Path) -> None:
    """POSIX: closing any descriptor of a file ends all locks that the process has on it."""
    file = private_file(folder / "paidup.db")
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    private_file(file)
    command = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    second = subprocess.run(
        [sys.executable, "-c", command, file], capture_output=True, text=True, check=False
    )
    assert "database is locked" in second.stderr
    holder.close()


def test_the_embedded_valkey_is_this_users_alone(folder: Path) -> None:
    with embedded_valkey(folder / "data") as url:
        assert socket_path(folder / "data") == Path(url.removeprefix("unix://"))
        assert socket_path(folder / "data").is_socket()
        assert open_to_others(folder / "data") == []
    umask = os.umask(0)
    assert umask == 0, "what the process had is what it has again"


def test_sockets_of_long_paths_are_in_an_unpredictable_directory(folder: Path) -> None:
    """Another user could create predictable names in /tmp first."""
    long = folder / ("long" * 40)
    first = socket_path(long)
    assert first == socket_path(long), "every process of this data directory finds it"
    assert open_to_others(first.parent) == []
    assert open_to_others(long) == []
    first.parent.rmdir()
    again = socket_path(long)
    assert again != first, "a name that the system has cleaned away could have been taken since"
    again.parent.rmdir()


async def test_the_supervisors_socket_is_next_to_the_valkeys(folder: Path) -> None:
    path = control_socket(folder / "data")
    async with FaultInjector({}).served(path):
        assert path.is_socket()
        assert open_to_others(folder / "data") == []


def test_a_directory_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line that says what to do; nothing is written there."""
    (folder / "valkey").mkdir(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for use in (socket_path, control_socket):
        with pytest.raises(ConfigurationError, match="is not a directory owned by this user: remove it"):
            use(folder)
    with pytest.raises(ConfigurationError), embedded_valkey(folder):
        pass
    assert list((folder / "valkey").iterdir()) == []


@pytest.mark.parametrize("to", ["elsewhere", "nowhere"])
def test_a_link_in_place_of_a_directory_is_refused(folder: Path, to: str) -> None:
    (folder / "elsewhere").mkdir(0o700)
    (folder / "valkey").symlink_to(folder / to)
    with pytest.raises(ConfigurationError):
        private_directory(folder / "valkey")
    assert not (folder / "nowhere").exists()


def test_the_demos_secrets_are_always_private(folder: Path) -> None:
    kept = supervisor._stored_secrets(folder / "data")
    assert open_to_others(folder / "data") == []
    (folder / "data" / "secrets.json").chmod(0o644)
    assert supervisor._stored_secrets(folder / "data") == kept
    assert open_to_others(folder / "data") == []


def test_a_folder_in_which_the_demo_may_not_write_is_a_mistake_in_the_settings(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(ConfigurationError, match=r"DATA_DIR: .* cannot be written .*: set DATA_DIR"):
        supervisor._stored_secrets(folder / "file" / "data")


def test_the_sandboxs_state_is_this_users_alone(folder: Path) -> None:
    """Also the temporary file, which another user may have created as a link."""
    victim = folder / "victim"
    victim.write_text("precious")
    state = folder / "state.json"
    state.with_suffix(".tmp").symlink_to(victim)
    store = Store(state)
    store.add({"id": "cus_1", "object": "customer"})
    content = store.snapshot()
    assert content is not None
    store.write(content)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert victim.read_text() == "precious"
