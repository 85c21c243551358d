"""Why a database cannot be opened, in one line that names the setting and what to do. Never a password."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from tortoise.exceptions import DBConnectionError, OperationalError

from paidup.errors import ConfigurationError, DatabaseUnreachable, PaidupError, StorageUnavailable
from paidup.runtime.connection_urls import without_password

_FAILURES = (
    OSError,
    TimeoutError,
    sqlite3.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    DBConnectionError,
    OperationalError,
)
_REFUSED = (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)
_UNUSABLE_FILES = ("not a database", "unable to open")


@contextmanager
def connecting(url: str) -> Iterator[None]:
    """Raise ConfigurationError, DatabaseUnreachable or StorageUnavailable where it fails to connect."""
    try:
        yield
    except PaidupError:
        raise
    except _FAILURES as error:
        raise _explained(url, error) from error


def _explained(url: str, error: BaseException) -> PaidupError:
    causes = list(_causes(error))
    if url.startswith("sqlite"):
        return _explained_file(url, causes)
    place = without_password(url)
    if any(isinstance(cause, _REFUSED) for cause in causes):
        return ConfigurationError(
            [f"DATABASE_URL: {place} refuses this user or this password: correct them in DATABASE_URL"]
        )
    if any(isinstance(cause, asyncpg.InvalidCatalogNameError) for cause in causes):
        return ConfigurationError(
            [f"DATABASE_URL: {place} does not exist: create the database (createdb), or correct its name"]
        )
    if any(isinstance(cause, OSError | TimeoutError) for cause in causes):
        return DatabaseUnreachable(
            f"DATABASE_URL: {place} does not answer ({_reason(causes)}): "
            "start the database, or correct the address"
        )
    return StorageUnavailable(f"{type(error).__name__}: {error}")


def _explained_file(url: str, causes: list[BaseException]) -> PaidupError:
    told = " ".join(map(str, causes))
    if any(isinstance(cause, OSError) for cause in causes) or any(text in told for text in _UNUSABLE_FILES):
        path = url.removeprefix("sqlite://").partition("?")[0]
        return ConfigurationError(
            [f"DATABASE_URL: {path} cannot be used ({_reason(causes)}): name another file, or set DATA_DIR"]
        )
    return StorageUnavailable(f"{type(causes[0]).__name__}: {causes[0]}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(causes: list[BaseException]) -> str:
    last = causes[-1]
    return (last.strerror if isinstance(last, OSError) else "") or str(last) or type(last).__name__
