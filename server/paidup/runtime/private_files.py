"""Creates files and directories that only this user can access, whatever the umask."""

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
    """Create the directory `path` if it is missing, and make it accessible to this user only.

    Raises ConfigurationError if it belongs to another user or is a link.
    """
    try:
        path.parent.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(PRIVATE_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(
            [f"DATA_DIR: {path} cannot be created ({error.strerror}): set DATA_DIR to another path"]
        ) from error
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigurationError(
            [f"{path} is not a directory owned by this user: remove it, or set DATA_DIR to another path"]
        )
    if found.st_mode & OTHERS:
        path.chmod(PRIVATE_DIRECTORY)
    return path


def private_file(path: Path) -> Path:
    """Create the file `path` if it is missing, and make it accessible to this user only.

    An existing file is not opened: closing SQLite's file would drop this process's locks on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE))
    except FileExistsError:
        close_to_others(path)
    return path


def close_to_others(path: Path) -> None:
    """Make the file `path` accessible to this user only, if there is one."""
    with suppress(FileNotFoundError):
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & OTHERS:
            path.chmod(PRIVATE_FILE)
