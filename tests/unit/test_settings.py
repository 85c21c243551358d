"""Settings: sources, types, and every refusal."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paidup.app import create_app
from paidup.errors import ConfigurationError
from paidup.settings import PACKAGED_PLANS, load_settings, make_settings, misspelt_names, process_problems
from tests.support.paidup import environment, settings

Write = Callable[[str, str], Path]

RANDOM = "6f1f0e6a_8c3b5d7e_92a4c1b0_d3e5f708_77aa"


def problems(**changes: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        make_settings(environment(**changes))
    return refused.value.problems


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secret_key": "short"}, "SECRET_KEY is shorter than 16"),
        ({"stripe_secret_key": f"pk_test_{RANDOM}"}, "STRIPE_SECRET_KEY is not a secret key"),
        ({"stripe_publishable_key": f"sk_test_{RANDOM}"}, "STRIPE_PUBLISHABLE_KEY is not a publishable key"),
        ({"stripe_webhook_secret": RANDOM}, "STRIPE_WEBHOOK_SECRET: each"),
        ({"stripe_webhook_secret": f"whsec_{RANDOM},{RANDOM}"}, "STRIPE_WEBHOOK_SECRET: each"),
        ({"stripe_webhook_secret": " , "}, "STRIPE_WEBHOOK_SECRET: each"),
        ({"stripe_publishable_key": f"pk_live_{RANDOM}"}, "not of the same mode"),
        ({"stripe_secret_key": f"rk_live_{RANDOM}"}, "not of the same mode"),
        ({"stripe_api_base": "api.stripe.com"}, "STRIPE_API_BASE is not a"),
        ({"database_url": "mysql://db"}, "DATABASE_URL starts with"),
        ({"database_url": "postgresql://paidup:pa/ss@host/db"}, "DATABASE_URL is not a valid URL"),
        ({"redis_url": "redis://:pa/ss@host:6379"}, "REDIS_URL is not a valid URL"),
        ({"stripe_api_base": "http://[::1"}, "STRIPE_API_BASE is not a"),
        ({"redis_url": "localhost:6379"}, "REDIS_URL starts with"),
        ({"redis_cluster": True}, "REDIS_CLUSTER: REDIS_URL lists"),
        ({"redis_cluster": True, "redis_url": "redis://a,unix:///b"}, "REDIS_CLUSTER: REDIS_URL lists"),
        ({"allowed_origins": "app.example.com"}, "ALLOWED_ORIGINS: 'app.example.com'"),
        ({"allowed_origins": "https://a.example, https://b.example/path"}, "'https://b.example/path'"),
        ({"allowed_origins": "*"}, "ALLOWED_ORIGINS: '*'"),
        (
            {"operator_token": RANDOM, "operator_read_token": RANDOM},
            "OPERATOR_READ_TOKEN is the same as OPERATOR_TOKEN",
        ),
        ({"operator_header": "X Forwarded"}, "OPERATOR_HEADER: 'X Forwarded' is not a header"),
        ({"operator_header": "Authorization"}, "OPERATOR_HEADER: 'Authorization' is not a header"),
        ({"operator_writers": "grace"}, "OPERATOR_WRITERS needs OPERATOR_HEADER"),
        ({"plans_file": "nowhere.toml"}, "PLANS_FILE: there is no file nowhere.toml"),
        ({"auth_jwt_secret": "too short"}, "AUTH_JWT_SECRET is shorter than 32"),
        (
            {"auth_jwt_secret": "-----BEGIN RSA PUBLIC KEY-----\\nMIIBCgKCAQEA"},
            "AUTH_JWT_SECRET: a public key begins",
        ),
        (
            {"auth_jwt_secret": "", "auth_jwks_url": "id.example/keys"},
            "AUTH_JWKS_URL is not a URL such as https://",
        ),
        ({"auth_jwt_algorithms": "HS256, none"}, "AUTH_JWT_ALGORITHMS: 'none' is not one of RS256, "),
        ({"auth_jwt_algorithms": "RS256"}, "AUTH_JWT_ALGORITHMS: add HS256"),
        ({"auth_jwt_leeway_s": 301}, "AUTH_JWT_LEEWAY_S: "),
        ({"https_proxy": "socks5://proxy:1080"}, "HTTPS_PROXY is not the URL of an HTTP proxy"),
        ({"https_proxy": "http://user:pa/ss@proxy"}, "HTTPS_PROXY is not the URL of an HTTP proxy"),
        ({"ssl_cert_file": "nowhere.pem"}, "SSL_CERT_FILE: nowhere.pem cannot be used: No such file"),
        ({"ssl_cert_file": __file__}, "cannot be used: it holds no PEM certificate"),
        ({"cors_origins": "none, https://a.example"}, "CORS_ORIGINS: 'none' is not an origin"),
        ({"cors_allowed_headers": "a b"}, "CORS_ALLOWED_HEADERS: 'a b' is not the name of a header"),
        ({"cors_exposed_headers": "*"}, "CORS_EXPOSED_HEADERS: '*' is not the name of a header"),
        ({"auth_jwks_refresh_s": 3601}, "AUTH_JWKS_REFRESH_S: "),
        ({"port": 0}, "PORT: "),
        ({"port": "eighty"}, "PORT: expected a whole number"),
        ({"port": 65536}, "PORT: "),
        ({"web_concurrency": 0}, "WEB_CONCURRENCY: "),
        ({"resync_interval_s": 0}, "RESYNC_INTERVAL_S: "),
        ({"stripe_timeout_s": -1}, "STRIPE_TIMEOUT_S: expected a number > 0.0"),
        ({"log_level": "LOUD"}, "LOG_LEVEL: expected one of DEBUG, INFO, WARNING, ERROR"),
        ({"log_format": "xml"}, "LOG_FORMAT: expected one of console, json"),
        ({"reconciler_in_server": "perhaps"}, "RECONCILER_IN_SERVER: expected true or false"),
        ({"no_such_setting": 1}, "NO_SUCH_SETTING is not a setting"),
    ],
)
def test_invalid_settings_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    (problem,) = problems(**changes)
    assert words in problem


@pytest.mark.parametrize(
    "name", ["secret_key", "stripe_secret_key", "stripe_publishable_key", "stripe_webhook_secret"]
)
def test_a_secret_has_no_default(name: str) -> None:
    (problem,) = problems(**{name: ""})
    assert problem.startswith(f"{name.upper()} is missing or empty: ")


def test_all_missing_and_malformed_settings_are_listed_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        make_settings({"PORT": "eighty", "LOG_LEVEL": "LOUD"})
    said = " ".join(refused.value.problems)
    names = (
        "SECRET_KEY",
        "STRIPE_SECRET_KEY",
        "STRIPE_PUBLISHABLE_KEY",
        "STRIPE_WEBHOOK_SECRET",
        "PORT",
        "LOG_LEVEL",
    )
    assert [name for name in names if name not in said] == []


def test_all_contradictions_are_listed_at_once() -> None:
    said = problems(
        secret_key="short", redis_url="localhost", plans_file="nowhere.toml", auth_jwt_secret="short"
    )
    assert len(said) == 4


def test_live_keys_are_refused_with_a_sandbox() -> None:
    live = {"stripe_secret_key": f"sk_live_{RANDOM}", "stripe_publishable_key": f"pk_live_{RANDOM}"}
    (problem,) = problems(**live, stripe_api_base="http://127.0.0.1:8001")
    assert "a sandbox must never receive live keys" in problem
    assert settings(**live).livemode


def test_a_refusal_shows_no_secret() -> None:
    secret = "sk_oops_4242_nobody_shall_see_this"
    assert secret not in str(problems(stripe_secret_key=secret, auth_jwt_secret=secret, port="eighty"))


def test_stripe_log_is_refused() -> None:
    """With STRIPE_LOG, Stripe's SDK prints client secrets to standard error, bypassing loggers."""
    with pytest.raises(ConfigurationError, match="STRIPE_LOG is set"):
        load_settings({**environment(), "STRIPE_LOG": "debug"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stripe_webhook_secret", "whsec_"),
        ("stripe_webhook_secret", "whsec_..."),
        ("stripe_webhook_secret", "whsec_…"),
        ("stripe_webhook_secret", "whsec_test"),
        ("stripe_webhook_secret", "whsec_" + "0" * 64),
        ("stripe_webhook_secret", f"whsec_{RANDOM}, whsec_..."),
        ("stripe_webhook_secret", "whsec_your_webhook_secret_from_the_dashboard"),
        ("stripe_webhook_secret", f"whsec_{RANDOM}é"),
        ("stripe_secret_key", "sk_test_..."),
        ("stripe_secret_key", "sk_test_" + "x" * 99),
        ("stripe_secret_key", "sk_test_1"),
        ("stripe_secret_key", f"sk_test_{RANDOM} "),
        ("stripe_publishable_key", "pk_test_..."),
        ("stripe_publishable_key", f"pk_test_<{RANDOM}>"),
        ("secret_key", "changeme-changeme-changeme"),
        ("secret_key", "<openssl rand -base64 32>"),
        ("secret_key", "a" * 32),
        ("auth_jwt_secret", "your-secret-your-secret-your-secret"),
        ("auth_jwt_secret", "1234" * 10),
        ("operator_token", "example-operator-token"),
        ("operator_token", "123456789"),
        ("operator_read_token", "123456789"),
    ],
)
def test_a_secret_that_is_easy_to_guess_is_refused(name: str, value: str) -> None:
    """S28: with a placeholder as webhook secret, anyone could sign events. One line says what to do."""
    (problem,) = problems(**{name: value})
    assert re.match(rf"{name.upper()} (is|has) .*: (`openssl|copy the whole) ", problem)
    assert value.rpartition(",")[2].strip() not in problem


def test_secrets_as_stripe_and_openssl_make_them_are_accepted() -> None:
    for number in range(100):
        key = f"test_51{secrets.token_hex(46)}{number}"
        made = {"stripe_secret_key": f"sk_{key}", "stripe_publishable_key": f"pk_{key}"}
        made["stripe_webhook_secret"] = f"whsec_{secrets.token_hex(32)},whsec_{secrets.token_hex(16)}"
        made |= {name: secrets.token_urlsafe(32) for name in ("secret_key", "auth_jwt_secret")}
        assert settings(**made, operator_token=secrets.token_hex(16)).stripe_secret_key == f"sk_{key}"


def test_more_than_one_worker_needs_a_shared_redis() -> None:
    """A bare `uvicorn --workers` would give each process its own Valkey, without shared messages."""
    alone = settings(web_concurrency=2)
    with pytest.raises(ConfigurationError, match="WEB_CONCURRENCY=2 without REDIS_URL"):
        create_app(alone)
    assert process_problems(settings(web_concurrency=2, redis_url="redis://127.0.0.1:1")) == []
    assert process_problems(settings()) == []


def test_the_environment_overrides_the_env_file(write_file: Write) -> None:
    given = environment(port=8100)
    kept = write_file(".env", "PORT=8200\nLOG_LEVEL=ERROR\nUNRELATED=1\n")
    read = load_settings({**given, "LOG_LEVEL": ""} | {"PATH": "/bin"}, kept)
    assert read.port == 8100
    assert load_settings({name: given[name] for name in given if name != "PORT"}, kept).port == 8200


def test_the_env_file_of_the_working_directory_is_read(
    write_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As documented: by every caller that names no other file, such as a host application."""
    given = environment()
    monkeypatch.chdir(write_file(".env", "PORT=8200\n").parent)
    assert load_settings(given).port == 8200
    assert load_settings(given, None).port == 8000
    assert load_settings(given, Path("absent.env")).port == 8000
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 8200


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_unset(write_file: Write, empty: str) -> None:
    """Docker Compose passes `${STRIPE_SECRET_KEY}` as an empty text where it is not set."""
    kept = write_file(".env", f"STRIPE_SECRET_KEY=sk_test_{RANDOM}\nPORT=8200\nREDIS_URL=\nHTTPS_PROXY=p:1\n")
    names = ("STRIPE_SECRET_KEY", "PORT", "LOG_LEVEL", "REDIS_URL", "HTTPS_PROXY", "https_proxy")
    read = load_settings(environment() | dict.fromkeys(names, empty), kept)
    assert (read.stripe_secret_key, read.port) == (f"sk_test_{RANDOM}", 8200)
    assert (read.log_level, read.redis_url, read.https_proxy) == ("INFO", "", "p:1")


def test_an_env_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """As editors on Windows save UTF-8."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfPORT=8200\r\nLOG_LEVEL=ERROR\r\n")
    given = {name: value for name, value in environment().items() if name != "LOG_LEVEL"}
    read = load_settings(given, tmp_path / ".env")
    assert (read.port, read.log_level) == (8200, "ERROR")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("PORT=8200\n".encode("utf-16"), id="UTF-16 with its mark"),
        pytest.param("PORT=8200\n".encode("utf-16-le"), id="UTF-16 without it"),
        pytest.param(b"PORT=8200\nNAME=\xfc\n", id="Latin-1"),
    ],
)
def test_an_env_file_that_is_not_utf8_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"is not UTF-8 text .*: save it as UTF-8"):
        load_settings(environment(), tmp_path / ".env")


@pytest.mark.parametrize("value", ["info", "Info", "INFO", " info "])
def test_words_are_accepted_in_any_case(value: str) -> None:
    assert settings(log_level=value, log_format="JSON").log_level == "INFO"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("STRIPE_SECERT_KEY", "STRIPE_SECRET_KEY"),
        ("REDIS_URI", "REDIS_URL"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("PAIDUP_DATABASE_URL", "DATABASE_URL"),
        ("port", "PORT"),
    ],
)
def test_a_name_that_looks_misspelt_is_named_with_the_nearest_setting(
    write_file: Write, name: str, nearest: str
) -> None:
    kept = write_file(".env", f"{name}=1\nVITE_API=1\nSANDBOX_PORT=8001\nHOSTNAME=web\n")
    given = {each: value for each, value in environment().items() if each != nearest}
    assert misspelt_names(given, kept) == [f"{name} is not a setting: did you mean {nearest}?"]


def test_names_that_resemble_no_setting_are_not_named() -> None:
    """What else an environment has, in lower case as well, is none of our business."""
    assert misspelt_names({"no_colour": "1", "pip_index": "x", "EDITOR": "vi"}, None) == []


def test_a_missing_setting_comes_with_the_name_that_is_misspelt(write_file: Write) -> None:
    kept = write_file(".env", f"STRIPE_SECERT_KEY=sk_test_{RANDOM}\n")
    given = {each: value for each, value in environment().items() if each != "STRIPE_SECRET_KEY"}
    with pytest.raises(ConfigurationError) as refused:
        load_settings(given, kept)
    missing, hint = refused.value.problems
    assert missing.startswith("STRIPE_SECRET_KEY is missing")
    assert hint == "STRIPE_SECERT_KEY is not a setting: did you mean STRIPE_SECRET_KEY?"


@pytest.mark.parametrize(
    ("url", "valid"),
    [
        ("redis://:a#b/c@h:6379/0", False),
        ("redis://:12/c@h:6379/0", False),
        ("redis://:a?b@h:6379/0", False),
        ("redis://:a%23b%2Fc@h:6379/0", True),
        ("redis://user:secret@[::1]:6379/0?protocol=3", True),
        ("rediss://cache.example.com", True),
        ("unix:///run/valkey.sock?db=1", True),
    ],
)
def test_a_password_that_ends_the_host_of_redis_early_is_refused(url: str, valid: bool) -> None:
    if valid:
        assert settings(redis_url=url).redis_url == url
        return
    (problem,) = problems(redis_url=url)
    assert problem == "REDIS_URL is not a valid URL; in a password, write special characters as %XX"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(port=8300).items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 8300


def test_texts_become_the_types_of_their_settings() -> None:
    read = settings(port="8100", resync_interval_s="2.5", reconciler_in_server="true", data_dir="somewhere")
    assert (read.port, read.resync_interval_s, read.reconciler_in_server) == (8100, 2.5, True)
    assert read.data_dir == Path("somewhere")


def test_several_webhook_secrets_are_separated_by_commas() -> None:
    """S12: while one is rolled, or for two endpoints on one address."""
    assert settings(stripe_webhook_secret=f"whsec_a{RANDOM}, whsec_b{RANDOM},").webhook_secrets == [
        f"whsec_a{RANDOM}",
        f"whsec_b{RANDOM}",
    ]


def test_origins_are_listed_or_this_servers_own() -> None:
    own = settings(allowed_origins=" , ", port=8100).origins
    assert set(own) == {"http://127.0.0.1:8100", "http://localhost:8100"}
    listed = settings(allowed_origins="https://a.example/, https://b.example")
    assert set(listed.origins) == {"https://a.example", "https://b.example"}


def test_without_an_address_the_database_is_a_file_under_the_data_directory(tmp_path: Path) -> None:
    assert settings(data_dir=tmp_path).effective_database_url == f"sqlite://{tmp_path / 'paidup.db'}"
    assert settings(database_url="postgresql://db/x").effective_database_url == "postgresql://db/x"


def test_stripes_own_address_is_not_a_sandbox() -> None:
    assert not settings(stripe_api_base="https://api.stripe.com/").sandboxed
    assert settings(stripe_api_base="http://127.0.0.1:8001").sandboxed


def test_the_plans_that_are_packaged_are_the_default() -> None:
    assert settings().plans_file == PACKAGED_PLANS


SECRET_FILES = ("SECRET_KEY", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "AUTH_JWT_SECRET", "DATABASE_URL")


def test_secrets_are_read_from_files(write_file: Write) -> None:
    """As Docker, Kubernetes and systemd hand them over; the line break at the end is not part of them."""
    given = environment(database_url="postgresql://paidup:secret@db/paidup")
    files = {f"{name}_FILE": str(write_file(name.lower(), given.pop(name) + "\n")) for name in SECRET_FILES}
    read = load_settings({**given, **files})
    assert read == settings(database_url="postgresql://paidup:secret@db/paidup")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "secret_key cannot be read: No such file or directory"),
        ("", "secret_key is empty"),
        ("a" * 70_000, "secret_key is larger than 65536 bytes"),
        ("\udcff\udcfe", "secret_key is not text in UTF-8"),
    ],
)
def test_a_secret_that_cannot_be_read_is_one_line(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    given = {name: value for name, value in environment().items() if name != "SECRET_KEY"}
    with pytest.raises(ConfigurationError) as refused:
        load_settings({**given, "SECRET_KEY_FILE": str(path)})
    (problem,) = refused.value.problems
    assert problem.startswith("SECRET_KEY_FILE: ")
    assert words in problem


def test_a_secret_and_its_file_are_refused_together(write_file: Write) -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEY and SECRET_KEY_FILE are both set"):
        load_settings({**environment(), "SECRET_KEY_FILE": str(write_file("secret_key", RANDOM))})


def test_the_proxy_may_be_named_in_lower_case() -> None:
    """As curl and others read it; the capitals take precedence."""
    lower = {"https_proxy": "http://lower:1", "no_proxy": "example.test"}
    read = load_settings({**environment(), **lower})
    assert read.outgoing.proxy_for("https://api.stripe.com") == "http://lower:1"
    assert read.outgoing.proxy_for("https://a.example.test:8443/keys") is None
    assert read.outgoing.proxy_for("http://127.0.0.1:8001") is None
    assert (
        load_settings({**environment(), **lower, "HTTPS_PROXY": "upper:2"}).outgoing.proxy_for(
            "https://api.stripe.com"
        )
        == "http://upper:2"
    )
