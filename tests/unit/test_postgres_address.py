"""DATABASE_URL for PostgreSQL: libpq's parameters, several hosts, and what is refused by name.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paidup.errors import ConfigurationError
from paidup.runtime.postgres_address import CONNECT_TIMEOUT_S, parse_address


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://db/x", [("db", None)]),
        ("postgres://db:5433/x", [("db", 5433)]),
        ("postgresql://u:p@db1:5433,db2,[::1]:6/x", [("db1", 5433), ("db2", None), ("::1", 6)]),
        ("postgresql:///x?host=/run/postgresql&port=5433", [("/run/postgresql", 5433)]),
        ("postgresql://%2Frun%2Fpostgresql/x", [("/run/postgresql", None)]),
        ("postgresql:///x?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///x?host=a,b&port=1", [("a", 1), ("b", 1)]),
        ("postgresql:///x", [(None, None)]),
    ],
)
def test_hosts_and_ports(url: str, hosts: list[Any]) -> None:
    assert list(parse_address(url).hosts) == hosts


def test_names_and_passwords_are_decoded_and_never_shown() -> None:
    """libpq decodes %XX everywhere, and leaves a plus sign alone."""
    address = parse_address("postgresql://a%40b:s%2Fe%40c@d+r@db/n%20m?application_name=my+%41pp")
    assert (address.user, address.password, address.database) == ("a@b", "s/e@c@d+r", "n m")
    assert address.application_name == "my+App"
    assert "s/e" not in repr(address)


@pytest.mark.parametrize(
    ("query", "mode", "ca"),
    [
        ("", None, None),
        ("sslmode=disable", "disable", None),
        ("sslmode=require", "require", None),
        ("sslmode=verify-full&sslrootcert=system", "verify-full", "system"),
        ("sslrootcert=system", "verify-full", "system"),
        ("ssl=disable", "disable", None),
        ("ssl=false", "disable", None),
        ("ssl=require", "require", None),
        ("ssl=true", "verify-full", "system"),
        ("sslmode=require&channel_binding=require", "verify-full", "system"),
        ("sslmode=require&channel_binding=prefer", "require", None),
        ("channel_binding=disable", None, None),
    ],
)
def test_tls(query: str, mode: str | None, ca: str | None) -> None:
    passed = parse_address(f"postgresql://db/x?{query}").parameters
    assert (passed.get("sslmode"), passed.get("sslrootcert")) == (mode, ca)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sslmode=on", "sslmode is one of"),
        ("ssl=maybe", "ssl is true or false"),
        ("channel_binding=yes", "channel_binding is one of"),
        ("channel_binding=require&sslmode=disable", "contradicts sslmode=disable"),
        ("sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
        ("sslrootcert=/no/such/file", "sslrootcert: there is no file /no/such/file"),
        ("connect_timeout=soon", "connect_timeout is not a whole number"),
        ("target_session_attrs=standby", "target_session_attrs is one of read-write"),
        ("pgbouncer=perhaps", "pgbouncer is true or false"),
        ("sslmod=require", "sslmod is not a parameter"),
        ("host=a,b&port=1,2,3", "not a valid URL|2 hosts and 3 ports"),
    ],
)
def test_what_is_wrong_is_named(query: str, named: str) -> None:
    host = "" if query.startswith("host=") else "db"
    with pytest.raises(ConfigurationError, match=named) as refused:
        parse_address(f"postgresql://u:secret@{host}/x?{query}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:se/cret@db/x",
        "postgresql://u:se#cret@db/x",
        "postgresql://u:se[cret@db/x",
        "postgresql://db:0/x",
        "postgresql://db:70000/x",
        "postgresql://a:b:c/x",
    ],
)
def test_a_url_that_cannot_be_read_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid URL") as refused:
        parse_address(url)
    assert "cret" not in str(refused.value)


def test_waits_have_deadlines_and_the_server_can_be_written() -> None:
    """libpq's own defaults are to wait for ever, and to take any server."""
    address = parse_address("postgresql://db/x")
    assert (address.connect_timeout_s, address.target, address.pooled) == (
        CONNECT_TIMEOUT_S,
        "read-write",
        None,
    )
    assert parse_address("postgresql://db/x?connect_timeout=0").connect_timeout_s == CONNECT_TIMEOUT_S
    chosen = parse_address("postgresql://db/x?connect_timeout=2&target_session_attrs=any&pgbouncer=true")
    assert (chosen.connect_timeout_s, chosen.target, chosen.pooled) == (2.0, "any", True)


def test_parameters_of_tcp_are_accepted(tmp_path: Path) -> None:
    """Providers add them to the addresses that they show."""
    authority = tmp_path / "ca.crt"
    authority.touch()
    address = parse_address(f"postgresql://db/x?keepalives=1&gssencmode=disable&sslrootcert={authority}")
    assert address.parameters == {"sslrootcert": str(authority)}
