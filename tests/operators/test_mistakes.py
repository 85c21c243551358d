"""Mistakes of operators: each is one line that names the setting and the remedy, and exit code 2."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from paidup import __version__
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.paidup import environment
from tests.support.postgres import Databases
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import StripeSide

HIDDEN = "hunter2"
"""In every password and secret below; no message shows it."""
KEY = f"sk_test_{HIDDEN}_6f1f0e6a_8c3b5d7e_92a4c1b0_d3e5f708"
RANDOM = f"{HIDDEN}6f1f0e6a_8c3b5d7e_92a4c1b0_d3e5f708_77aa"


class Mistake(NamedTuple):
    """What is wrong, and a part of each line that says so. `{home}` and the like are filled in."""

    name: str
    lines: tuple[str, ...]
    environment: Mapping[str, str] = {}
    files: Mapping[str, str | bytes] = {}
    command: tuple[str, ...] = ("serve",)


def plans(*changes: tuple[str, str]) -> str:
    text = PACKAGED_PLANS.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    return text


OWN_PLANS = {"PLANS_FILE": "plans.toml"}
CREDITS = PACKAGED_PLANS.read_text().splitlines().index("credits = 500") + 1
"""The line of the first plan's credits; its rollover is in the next."""
MISTAKES = [
    Mistake("no secret", ("SECRET_KEY is missing or empty: it signs tickets; `openssl",), {"SECRET_KEY": ""}),
    Mistake(
        "several at once",
        ("SECRET_KEY is missing", "STRIPE_SECRET_KEY is missing", "PORT: ", "LOG_LEVEL: "),
        {"SECRET_KEY": "", "STRIPE_SECRET_KEY": "", "PORT": "eighty", "LOG_LEVEL": "loud"},
    ),
    Mistake(
        "all secrets of Stripe",
        ("STRIPE_SECRET_KEY is missing", "STRIPE_PUBLISHABLE_KEY is missing", "STRIPE_WEBHOOK_SECRET is m"),
        {"STRIPE_SECRET_KEY": "", "STRIPE_PUBLISHABLE_KEY": "", "STRIPE_WEBHOOK_SECRET": ""},
    ),
    Mistake("a placeholder", ("SECRET_KEY is a placeholder: `openssl",), {"SECRET_KEY": "changeme-changeme"}),
    Mistake("a short secret", ("SECRET_KEY is shorter than 16",), {"SECRET_KEY": HIDDEN}),
    Mistake("the wrong key", ("STRIPE_SECRET_KEY is not a secret",), {"STRIPE_SECRET_KEY": f"pk_{KEY}"}),
    Mistake("keys of two modes", ("not of the same mode",), {"STRIPE_PUBLISHABLE_KEY": f"pk_live_{RANDOM}"}),
    Mistake("no webhook secret", ("STRIPE_WEBHOOK_SECRET: each",), {"STRIPE_WEBHOOK_SECRET": RANDOM}),
    Mistake(
        "live keys at a sandbox",
        ("a sandbox must never receive live keys",),
        {"STRIPE_SECRET_KEY": f"sk_live_{RANDOM}", "STRIPE_PUBLISHABLE_KEY": f"pk_live_{RANDOM}"},
    ),
    Mistake("the SDK's own log", ("STRIPE_LOG is set: ",), {"STRIPE_LOG": "debug"}),
    Mistake(
        "no secret of tokens",
        ("AUTH_JWT_SECRET and AUTH_JWKS_URL are both missing: set AUTH_JWT_SECRET",),
        {"AUTH_JWT_SECRET": ""},
    ),
    Mistake(
        "a secret twice",
        ("SECRET_KEY and SECRET_KEY_FILE are both set: choose one",),
        {"SECRET_KEY_FILE": "key.txt"},
        {"key.txt": RANDOM},
    ),
    Mistake(
        "no URL of keys",
        ("AUTH_JWKS_URL is not a URL",),
        {"AUTH_JWT_SECRET": "", "AUTH_JWKS_URL": "id.example/keys"},
    ),
    Mistake("a port that is none", ("PORT: ",), {"PORT": "70000"}),
    Mistake("no process", ("WEB_CONCURRENCY: ",), {"WEB_CONCURRENCY": "0"}),
    Mistake("neither yes nor no", ("RECONCILER_IN_SERVER: ",), {"RECONCILER_IN_SERVER": "perhaps"}),
    Mistake("no time at all", ("STRIPE_TIMEOUT_S: ",), {"STRIPE_TIMEOUT_S": "0"}),
    Mistake("the port is taken", ("PORT: 127.0.0.1:{busy} is in use by another",), {"PORT": "{busy}"}),
    Mistake(
        "a shell's HOST",
        ("HOST: 'x86_64-conda-linux-gnu' is not an address of this machine: unset HOST",),
        {"HOST": "x86_64-conda-linux-gnu"},
    ),
    Mistake("another machine's address", ("HOST: '192.0.2.1' is not",), {"HOST": "192.0.2.1"}),
    Mistake(
        "the port of the worker's metrics",
        ("WORKER_METRICS_PORT: 127.0.0.1:{busy} is in use",),
        {"WORKER_METRICS_PORT": "{busy}"},
        command=("work",),
    ),
    Mistake("an origin with a path", ("ALLOWED_ORIGINS: ",), {"ALLOWED_ORIGINS": "https://a.example/path"}),
    Mistake("every proxy is trusted", ("FORWARDED_ALLOW_IPS: '*' would",), {"FORWARDED_ALLOW_IPS": "*"}),
    Mistake("another database's URL", ("DATABASE_URL",), {"DATABASE_URL": "mysql://db/paidup"}),
    Mistake(
        "a slash in a password",
        ("DATABASE_URL",),
        {"DATABASE_URL": f"postgresql://paidup:{HIDDEN}/b@127.0.0.1/paidup"},
    ),
    Mistake(
        "a hash in a password",
        ("REDIS_URL is not a valid URL; in a password, write special characters as %XX",),
        {"REDIS_URL": f"redis://:a#b/{HIDDEN}@h:6379/0"},
    ),
    Mistake("no URL of Redis", ("REDIS_URL starts with redis://",), {"REDIS_URL": "localhost:6379"}),
    Mistake("a cluster without nodes", ("REDIS_CLUSTER: ",), {"REDIS_URL": "", "REDIS_CLUSTER": "true"}),
    Mistake(
        "the password of Redis",
        ("REDIS_URL: {valkey} refuses: ",),
        {"REDIS_URL": "{valkey}?username=nobody&password=" + HIDDEN},
    ),
    Mistake(
        "no database of this name",
        ("no_such_name does not exist: create the database",),
        {"DATABASE_URL": "{no_such_name}"},
    ),
    Mistake("the password of the database", ("refuses this user or this",), {"DATABASE_URL": "{locked_out}"}),
    Mistake(
        "a database that does not answer",
        ("DATABASE_URL: postgresql://127.0.0.1:1/paidup does not answer (",),
        {"DATABASE_URL": f"postgresql://paidup:{HIDDEN}@127.0.0.1:1/paidup"},
    ),
    Mistake(
        "the same for a command",
        ("DATABASE_URL: postgresql://127.0.0.1:1/paidup does not answer (",),
        {"DATABASE_URL": f"postgresql://paidup:{HIDDEN}@127.0.0.1:1/paidup"},
        command=("explain", "ada"),
    ),
    Mistake(
        "a database that is not migrated", ("run `paidup migrate`",), {"DATABASE_URL": "sqlite://new.db"}
    ),
    Mistake(
        "the same for PostgreSQL and the worker",
        ("run `paidup migrate`",),
        {"DATABASE_URL": "{empty}"},
        command=("work", "--once"),
    ),
    Mistake(
        "the same for a command that looks",
        ("run `paidup migrate`",),
        {"DATABASE_URL": "sqlite://new.db"},
        command=("audit",),
    ),
    Mistake(
        "a file that is no database",
        ("DATABASE_URL: notes.txt cannot be used (file is not a database)",),
        {"DATABASE_URL": "sqlite://notes.txt"},
        {"notes.txt": "Remember the milk, and much else beside it.\n" * 100},
    ),
    Mistake(
        "a file below a file",
        ("DATABASE_URL: notes.txt/paidup.db cannot be used (",),
        {"DATABASE_URL": "sqlite://notes.txt/paidup.db"},
        {"notes.txt": ""},
        ("migrate",),
    ),
    Mistake(
        "a data directory that is a file",
        ("DATA_DIR",),
        {"DATA_DIR": "notes.txt", "REDIS_URL": ""},
        {"notes.txt": ""},
    ),
    Mistake("no plans file", ("PLANS_FILE: there is no file gone.toml",), {"PLANS_FILE": "gone.toml"}),
    Mistake(
        "no TOML",
        ("plans.toml: Expected ']]' at the end of an array declaration (at line 1, column 8)",),
        OWN_PLANS,
        {"plans.toml": "[[plans]\n"},
    ),
    Mistake(
        "an unknown key",
        (f"plans.toml, line {CREDITS + 2}: plans[0].credit: unknown key; did you mean `credits`?",),
        OWN_PLANS,
        {"plans.toml": plans(('rollover = "expire"', 'rollover = "expire"\ncredit = 1'))},
        ("work", "--once"),
    ),
    Mistake(
        "every fault of the plans",
        (
            f"line {CREDITS}: plans[0].credits: Expected",
            f"line {CREDITS + 1}: plans[0].rollover: Invalid",
            "id used twice: basic",
        ),
        OWN_PLANS,
        {
            "plans.toml": plans(
                ("credits = 500", 'credits = "500"'),
                ('rollover = "expire"', 'rollover = "sometimes"'),
                ('id = "pro"', 'id = "advanced"'),
            )
            .replace('id = "advanced"', 'id = "basic"')
            .replace('id = "basic"', 'id = "first"', 1)
        },
    ),
    Mistake("plans that are no text", ("plans.toml: ",), OWN_PLANS, {"plans.toml": b"\xff\xfe[\0"}),
    Mistake("a .env in UTF-16", (".env is not UTF-8 text",), {}, {".env": "PORT=1\n".encode("utf-16")}),
    Mistake(
        ".env that cannot be read", (".env, line 2: write it as NAME=value",), {}, {".env": "A=1\n= 2\n"}
    ),
    Mistake(
        "a name in .env that is misspelt",
        (
            "STRIPE_SECRET_KEY is missing",
            "STRIPE_SECERT_KEY is not a setting: did you mean STRIPE_SECRET_KEY?",
        ),
        {"STRIPE_SECRET_KEY": ""},
        {".env": f"STRIPE_SECERT_KEY={KEY}\n"},
    ),
    Mistake(
        "a price that is not Stripe's",
        ("paidup_pro_monthly is 1900 usd month in the plans file, and in Stripe price_",),
        {**OWN_PLANS, "STRIPE_API_BASE": "{stripe}"},
        {"plans.toml": plans(("amount_minor = 2900\n", "amount_minor = 1900\n"))},
    ),
]


def paidup(home: Path, command: tuple[str, ...], variables: Mapping[str, str]) -> tuple[int, str]:
    """Run the command; its exit code, and its output."""
    child = Child(["-m", "paidup.cli", *command], variables, home / "output.log", home, forked=True)
    try:
        return child.process.wait(60), child.output
    finally:
        child.stop()


@pytest.mark.parametrize(
    ("changes", "told", "code"),
    [
        ({"PORT": "eighty", "SECRET_KEY": ""}, ["settings: SECRET_KEY is missing", "settings: PORT: "], 2),
        ({"AUTH_JWT_SECRET": ""}, ["settings: AUTH_JWT_SECRET and AUTH_JWKS_URL are both missing"], 2),
        ({"DATABASE_URL": "sqlite://new.db"}, ["settings: DATABASE_URL: the database has not been"], 3),
        ({"PLANS_FILE": "broken.toml"}, ["settings: broken.toml"], 3),
        (
            {"DATABASE_URL": "postgresql://127.0.0.1:1/p"},
            ["DATABASE_URL: postgresql://127.0.0.1:1/p does"],
            3,
        ),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_uvicorn_alone_says_it_in_lines_too(
    home: Path, given: dict[str, str], changes: dict[str, str], told: list[str], code: int
) -> None:
    """Without `paidup serve`; uvicorn's own code is 3 where the application does not start."""
    (home / "broken.toml").write_text("plans = 1")
    variables = {name: value for name, value in {**given, **changes}.items() if value}
    arguments = ["-m", "uvicorn", "--factory", "paidup.uvicorn_server:application", "--port", given["PORT"]]
    child = Child(arguments, variables, home / "output.log", home, forked=True)
    try:
        assert child.process.wait(60) == code, child.output
    finally:
        child.stop()
    assert "Traceback" not in child.output
    assert [line for line in told if line not in child.output] == [], child.output


async def test_a_redis_that_is_away_is_named_without_its_password(world: World) -> None:
    """The server starts all the same, since Redis may come back; `/readyz` names the address."""
    paidup = await world.server(redis_url=f"redis://:{HIDDEN}@127.0.0.1:1/0")
    status, answer = await paidup.get("/readyz")
    (problem,) = answer["problems"]
    assert (status, answer["redis"]) == (503, False)
    assert problem.startswith("REDIS_URL: redis://127.0.0.1:1/0 does not answer: ")
    assert HIDDEN not in problem


def test_the_version_is_printed(home: Path) -> None:
    assert paidup(home, ("--version",), {}) == (0, f"paidup {__version__}\n")


class Surroundings:
    """The values of the placeholders, each made where a mistake uses it."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def fill(self, text: str) -> str:
        for name in ("busy", "valkey", "stripe", "locked_out", "no_such_name", "empty"):
            if f"{{{name}}}" in text:
                text = text.replace(f"{{{name}}}", str(self._request.getfixturevalue(name)))
        return text


@pytest.fixture
def surroundings(request: pytest.FixtureRequest) -> Surroundings:
    return Surroundings(request)


@pytest.fixture
def busy() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def stripe(stripe_side: StripeSide) -> str:
    return stripe_side.url


@pytest.fixture
def no_such_name(databases: Databases) -> str:
    return str(databases.server.get_uri(database="no_such_name"))


@pytest.fixture
def empty(databases: Databases) -> Iterator[str]:
    """A PostgreSQL database without a table."""
    databases.server.psql("CREATE DATABASE not_migrated")
    yield databases.server.get_uri(database="not_migrated")
    databases.server.psql("DROP DATABASE not_migrated WITH (FORCE)")


@pytest.fixture
def locked_out(databases: Databases) -> str:
    """The address of a user who needs a password, with a wrong one."""
    server = databases.server
    rules = server.pgdata / "pg_hba.conf"
    if "locked_out" not in rules.read_text():
        rules.write_text(f"local all locked_out scram-sha-256\n{rules.read_text()}")
        server.psql("CREATE ROLE locked_out LOGIN PASSWORD 'right'; SELECT pg_reload_conf()")
    return str(server.get_uri(database="postgres")).replace("//postgres:@", f"//locked_out:{HIDDEN}@")


@pytest.fixture
def given(home: Path, sqlite_template: Path, valkey: str) -> dict[str, str]:
    """The environment of a service in which nothing is wrong, but that Stripe does not answer."""
    shutil.copy(sqlite_template, home / "migrated.db")
    return environment(
        database_url="sqlite://migrated.db",
        redis_url=valkey,
        stripe_api_base="http://127.0.0.1:1",
        port=free_port(),
    )


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_one_line(
    mistake: Mistake, home: Path, given: dict[str, str], surroundings: Surroundings
) -> None:
    """It names the setting and the remedy; no traceback, no secret, and exit code 2."""
    for name, content in mistake.files.items():
        (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    changes = {name: surroundings.fill(value) for name, value in mistake.environment.items()}
    variables = {name: value for name, value in {**given, **changes}.items() if value}
    code, output = paidup(home, mistake.command, variables)
    lines = output.splitlines()
    assert code == 2, output
    assert HIDDEN not in output
    assert [line for line in lines if not line.startswith("settings: ")] == []
    expected = [surroundings.fill(part) for part in mistake.lines]
    assert [part for part in expected if not any(part in line for line in lines)] == []
    assert len(lines) == len(expected), output
