"""Why a database cannot be opened, in one line that names the setting and what to do. Never a password."""

from __future__ import annotations

import sqlite3
import ssl
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
_CHECK_CERTIFICATE = "check that its authority has signed ?sslcert=..., and ?sslkey=..."
_ENTRY = "pg_hba.conf"
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
    refused = [cause for cause in causes if isinstance(cause, _REFUSED)]
    if refused:
        return ConfigurationError([f"DATABASE_URL: {place} {_refusal(refused)}"])
    if problem := _tls_problem(url, causes):
        return DatabaseUnreachable(f"DATABASE_URL: {place} {problem}")
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


def _refusal(refused: list[asyncpg.PostgresError]) -> str:
    """What the server demands, and the remedy. Its texts are those of PostgreSQL's auth.c and miscinit.c.

    Of two attempts, with TLS and without, the one with TLS came further.
    """
    told = next((text for text in map(str, refused) if _ENTRY not in text), str(refused[0]))
    if any(isinstance(cause, asyncpg.InvalidPasswordError) for cause in refused):
        return "refuses this user or this password: correct them in DATABASE_URL"
    if "valid client certificate" in told:
        return f"demands a client certificate ({told}): name its files with ?sslcert=...&sslkey=..."
    if "certificate authentication failed" in told:
        return (
            f"refuses this certificate ({told}): use one whose common name is this user, or correct the user"
        )
    if told.endswith("no encryption"):
        return (
            f"takes no connection like this one ({told}): add ?sslmode=require, or a line for it to "
            "the server's pg_hba.conf"
        )
    if _ENTRY in told:
        return f"takes no connection like this one ({told}): add a line for it to the server's pg_hba.conf"
    return f"refuses this user ({told}): correct it in DATABASE_URL, or create it (createuser)"


def _tls_problem(url: str, causes: list[BaseException]) -> str | None:
    """What keeps TLS from being used, which is no fault of the address; or None."""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"has a certificate that is not trusted ({cause.verify_message}): name its authority's file "
                "with ?sslrootcert=..., or correct the host"
            )
        if isinstance(cause, ssl.SSLError):
            return f"ends the TLS handshake ({cause.reason}): {_CHECK_CERTIFICATE}"
        # TLS 1.3: the server closes after the handshake; its alert may be lost with what was sent to it.
        if isinstance(cause, ConnectionResetError) and "sslcert=" in url:
            return f"ends the TLS handshake ({cause.strerror}): {_CHECK_CERTIFICATE}"
        if isinstance(cause, ConnectionError) and "rejected SSL upgrade" in str(cause):
            return "has no TLS: switch it on there (ssl = on), or set ?sslmode=disable"
    return None


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
