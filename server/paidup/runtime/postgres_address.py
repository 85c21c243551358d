"""Reads DATABASE_URL for PostgreSQL as libpq does: several hosts, TLS, timeouts, and a pooler in between.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS says what each parameter
means. Where asyncpg cannot do what libpq does, it says so here and in docs/deploying.md.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from paidup.errors import ConfigurationError

NOT_VALID = "DATABASE_URL is not a valid URL; in a password, write special characters as %XX"
CONNECT_TIMEOUT_S = 5.0
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TARGETS = ("read-write", "primary", "any")
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
PASSED_ON = frozenset(
    {
        *FILES,
        *("sslmode", "sslpassword", "sslnegotiation", "ssl_min_protocol_version"),
        *("ssl_max_protocol_version", "passfile", "service", "krbsrvname", "gsslib"),
    }
)
"""What asyncpg reads from an address itself, as libpq does."""
OWN = frozenset(
    {
        *("host", "port", "user", "password", "dbname", "connect_timeout", "channel_binding", "options"),
        *("application_name", "target_session_attrs", "ssl", "pgbouncer"),
    }
)
WITHOUT_EFFECT = frozenset(
    {
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        *("gssencmode", "client_encoding", "fallback_application_name", "sslsni", "sslcompression"),
    }
)
"""libpq's parameters about what asyncpg does in one way only."""
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True}
_BOOLEANS |= {"false": False, "0": False, "no": False, "off": False}

Host = tuple[str | None, int | None]
"""A name, an IP address or a directory of Unix sockets, and a port. None: what asyncpg finds itself."""


class PostgresAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the database is, and how to connect to it. `pooled` None: find out."""

    hosts: tuple[Host, ...]
    user: str | None
    password: str | None
    database: str | None
    parameters: Mapping[str, str]
    application_name: str
    options: str | None
    connect_timeout_s: float
    target: str
    pooled: bool | None

    def __repr__(self) -> str:
        """Without the password."""
        return f"PostgresAddress({self.hosts}, {self.database})"

    def arguments(self, host: Host) -> dict[str, Any]:
        """asyncpg.connect's arguments for one of the hosts. Reads the files of certificates."""
        name, port = host
        query = urlencode(self.parameters, quote_via=quote)
        found: dict[str, Any] = {
            "dsn": f"postgresql://?{query}" if query else None,
            "host": name,
            "port": port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "timeout": self.connect_timeout_s,
            "target_session_attrs": self.target,
        }
        if self.parameters.get("sslrootcert") == "system":
            found["ssl"] = _system_context(self.parameters)
        return found


def parse_address(url: str) -> PostgresAddress:
    """Raises ConfigurationError, which names the parameter. No message has a part of the password."""
    try:
        parts = urlsplit(url)
        login, _, listed = parts.netloc.rpartition("@")
    except ValueError:
        raise ConfigurationError([NOT_VALID]) from None
    if parts.fragment:
        raise ConfigurationError([NOT_VALID])
    given = _parameters(parts.query)
    user, _, password = login.partition(":")
    database = unquote(parts.path.removeprefix("/"))
    return PostgresAddress(
        hosts=_hosts(unquote(listed) or given.get("host", ""), given.get("port", "")),
        user=unquote(user) or given.get("user"),
        password=unquote(password) or given.get("password"),
        database=database or given.get("dbname"),
        parameters=_passed_on(given),
        application_name=given.get("application_name", "paidup"),
        options=given.get("options"),
        connect_timeout_s=_connect_timeout_s(given.get("connect_timeout", "0")),
        target=_one_of("target_session_attrs", given.get("target_session_attrs", TARGETS[0]), TARGETS),
        pooled=_boolean("pgbouncer", given["pgbouncer"]) if "pgbouncer" in given else None,
    )


def _invalid(problem: str) -> ConfigurationError:
    return ConfigurationError([f"DATABASE_URL: {problem}"])


def _parameters(query: str) -> dict[str, str]:
    """By name. Like libpq, it decodes %XX and leaves a plus sign alone; of several, the last one counts."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    given = {unquote(name): unquote(value) for name, _, value in pairs if value}
    known = PASSED_ON | OWN | WITHOUT_EFFECT
    if unknown := sorted(given.keys() - known):
        raise _invalid(
            f"{', '.join(unknown)} is not a parameter that Paidup knows. Known are: "
            f"{', '.join(sorted(known - WITHOUT_EFFECT))}"
        )
    return given


def _hosts(listed: str, ports: str) -> tuple[Host, ...]:
    """libpq's lists: a port for each host, or one for all."""
    specs = listed.split(",") if listed else [""]
    fallback = ports.split(",") if ports else [""]
    if len(fallback) not in (1, len(specs)):
        raise _invalid(f"it has {len(specs)} hosts and {len(fallback)} ports")
    return tuple(
        _host(spec, fallback[number] if len(fallback) > 1 else fallback[0])
        for number, spec in enumerate(specs)
    )


def _host(spec: str, fallback: str) -> Host:
    if spec.startswith("/"):
        name, port = spec, ""
    else:
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(\d*))?", spec)
        if found is None:
            raise ConfigurationError([NOT_VALID])
        name, port = found[1].strip("[]"), found[2] or ""
    port = port or fallback
    if port and not (port.isdecimal() and 0 < int(port) < 65_536):
        raise ConfigurationError([NOT_VALID])
    return name or None, int(port) if port else None


def _passed_on(given: Mapping[str, str]) -> dict[str, str]:
    """What asyncpg is given, with the mode of TLS that all parameters come to."""
    passed = {name: value for name, value in given.items() if name in PASSED_ON}
    if "sslmode" in given:
        _one_of("sslmode", given["sslmode"], SSL_MODES)
    elif "ssl" in given:
        passed |= _ssl_parameter(given["ssl"], passed)
    if _one_of("channel_binding", given.get("channel_binding", "prefer"), _BINDINGS) == "require":
        passed |= _instead_of_channel_binding(passed)
    if passed.get("sslrootcert") == "system" and passed.setdefault("sslmode", "verify-full") != "verify-full":
        raise _invalid("sslrootcert=system needs sslmode=verify-full")
    for name in FILES:
        if name in passed and passed[name] != "system" and not Path(passed[name]).is_file():
            raise _invalid(f"{name}: there is no file {passed[name]}")
    return passed


_BINDINGS = ("disable", "prefer", "require")


def _ssl_parameter(value: str, passed: Mapping[str, str]) -> dict[str, str]:
    """The older `ssl`: a mode, false, or true, which verifies the server as it always has here."""
    if value in SSL_MODES:
        return {"sslmode": value}
    if not _boolean("ssl", value):
        return {"sslmode": "disable"}
    return {"sslmode": "verify-full", "sslrootcert": passed.get("sslrootcert", "system")}


def _instead_of_channel_binding(passed: Mapping[str, str]) -> dict[str, str]:
    """asyncpg has no channel binding. What it is for, a server that is no other, a certificate proves too."""
    if passed.get("sslmode") in ("disable", "allow"):
        raise _invalid(f"channel_binding=require contradicts sslmode={passed['sslmode']}")
    return {"sslmode": "verify-full", "sslrootcert": passed.get("sslrootcert", "system")}


def _connect_timeout_s(value: str) -> float:
    if not value.isdecimal():
        raise _invalid("connect_timeout is not a whole number of seconds")
    return float(value) or CONNECT_TIMEOUT_S  # libpq's 0 waits for ever; no wait here does


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise _invalid(f"{name} is one of {', '.join(allowed)}")
    return value


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise _invalid(f"{name} is true or false")
    return _BOOLEANS[value.lower()]


def _system_context(parameters: Mapping[str, str]) -> ssl.SSLContext:
    """For sslrootcert=system, which asyncpg does not know: the system's certificate authorities."""
    context = ssl.create_default_context()
    if "sslcert" in parameters:
        context.load_cert_chain(
            parameters["sslcert"], parameters.get("sslkey"), lambda: parameters.get("sslpassword", "")
        )
    context.set_alpn_protocols(["postgresql"])  # needed for sslnegotiation=direct
    return context
