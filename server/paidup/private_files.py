"""Files and directories for this user alone, whatever the umask and whoever else uses the machine."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from paidup.errors import ConfigurationError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
OTHERS = 0o077


def private_directory(path: Path) -> Path:
    """`path`, made if it is missing. Nobody else can read it, or put anything there.

    Raises ConfigurationError where somebody else has made it first, or a link in its place.
    """
    path.parent.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(PRIVATE_DIRECTORY)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigurationError(
            [f"{path} is no directory of this user's own: remove it, or set DATA_DIR to another place"]
        )
    if found.st_mode & OTHERS:
        path.chmod(PRIVATE_DIRECTORY)
    return path


def private_file(path: Path) -> Path:
    """`path`, made empty if it is missing. One of this user's that others could open is closed to them.

    Never opens what exists: closing SQLite's file would end the locks that this process has on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE))
    except FileExistsError:
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & OTHERS:
            path.chmod(PRIVATE_FILE)
    return path
