"""Settings: the only module that reads the environment.

Defines every setting's name, type, default and bounds, and refuses contradictory combinations.
`.env.example` explains each one; a test keeps the two in step. Secrets have no default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from paidup.domain.checkout_settings import CheckoutSettings, checkout_problems
from paidup.domain.operator_settings import HEADER_NAME, operator_problems
from paidup.domain.origins import Origins, origin_problems, parse_origins
from paidup.domain.outbound_settings import outbound_problems
from paidup.domain.token_algorithms import algorithm_problems
from paidup.domain.trusted_proxies import proxy_problems
from paidup.domain.weak_secrets import weakness
from paidup.errors import ConfigurationError
from paidup.runtime.connection_urls import can_be_parsed, database_problems, names_a_host, redis_problems
from paidup.runtime.env_file import misspelt, read_env_file
from paidup.runtime.outgoing import READ_BY_OTHERS, Outgoing
from paidup.runtime.secret_files import FROM_FILES, read_secret_files
from paidup.runtime.tracing import Destination

STRIPE_API = "https://api.stripe.com"
ENV_FILE = Path(".env")
PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----"
RANDOM = "`openssl rand -base64 32` makes one"
FROM_DASHBOARD = "copy the whole key from the Stripe dashboard"
FROM_ENDPOINT = "copy the whole secret of the webhook endpoint, or what `stripe listen` prints"
OTHERS_PREFIXES = ("SANDBOX_", "OTEL_")
"""Of names that the demo's sandbox and OpenTelemetry's SDK read themselves."""
CORS_NONE = "none"
PACKAGED_PLANS = Path(__file__).parent / "plans.toml"

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Settings(CheckoutSettings, frozen=True, kw_only=True, rename=str.upper, forbid_unknown_fields=True):
    """All settings, validated. The environment variables are these names in capitals."""

    # Secrets
    secret_key: str
    stripe_secret_key: str
    stripe_publishable_key: str
    stripe_webhook_secret: str
    auth_jwt_secret: str = ""
    auth_jwks_url: str = ""

    # Network, storage and authentication
    host: str = "127.0.0.1"
    port: Port = 8000
    data_dir: Path = Path(".paidup")
    database_url: str = ""
    database_pool: Count = 20
    database_lock_timeout_s: Seconds = 5.0
    database_statement_timeout_s: Seconds = 10.0
    redis_url: str = ""
    redis_cluster: bool = False
    web_concurrency: Count = 1
    stripe_api_base: str = STRIPE_API
    stripe_account: str = ""
    plans_file: Path = PACKAGED_PLANS
    price_source: Literal["plans_file", "stripe"] = "plans_file"
    return_page_file: str = ""
    allowed_origins: str = ""
    forwarded_allow_ips: str = "127.0.0.1,::1"
    cors_origins: str = ""
    cors_credentials: bool = False
    cors_allowed_headers: str = ""
    cors_exposed_headers: str = "Retry-After,X-Request-Id,Paidup-Api-Version,ETag,Link"
    auth_jwt_audience: str = ""
    auth_jwt_audience_claim: str = "aud"
    auth_jwt_issuer: str = ""
    auth_jwt_algorithms: str = ""
    auth_jwt_customer_claim: str = "sub"
    auth_jwt_leeway_s: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30.0
    https_proxy: str = ""
    no_proxy: str = ""
    ssl_cert_file: str = ""

    websocket_protocol: Literal["lightweight", "uvicorn"] = "lightweight"

    # Logging
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"
    access_log: bool = False
    otel_exporter_otlp_endpoint: str = ""
    otel_exporter_otlp_headers: str = ""
    otel_service_name: str = "paidup"
    otel_traces_sampler_arg: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0

    # Limits
    ticket_ttl_s: Count = 3600
    stripe_timeout_s: Seconds = 10.0
    stripe_requests_per_second: Count = 20
    webhook_max_bytes: Count = 512 * 1024
    webhook_tolerance_s: Count = 300
    webhook_deadline_s: Seconds = 5.0
    request_max_bytes: Count = 16 * 1024
    max_sockets: Count = 10_000
    max_sockets_per_invoice: Count = 20
    max_sockets_per_address: Count = 200
    max_sockets_per_account: Count = 40
    purchases_per_minute: Count = 60
    adoptions_per_minute: Count = 60
    verifications_per_minute: Count = 120
    checkout_reads_per_minute: Count = 120
    socket_max_lifetime_s: Seconds = 900.0
    socket_send_timeout_s: Seconds = 5.0
    heartbeat_s: Seconds = 15.0
    shutdown_drain_s: Seconds = 10.0
    resync_interval_s: Seconds = 5.0
    stripe_reads_per_month: Count = 10_000
    abandoned_after_h: Annotated[int, msgspec.Meta(ge=1, le=8760)] = 23
    event_payload_days: Days = 90
    timeline_days: Days = 90
    reconciler_in_server: bool = False
    reconciler_interval_s: Seconds = 2.0
    worker_metrics_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    auth_jwks_refresh_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    max_credits_per_request: Count = 1_000_000

    @property
    def effective_database_url(self) -> str:
        """DATABASE_URL, or the SQLite file under DATA_DIR."""
        return self.database_url or f"sqlite://{self.data_dir.resolve() / 'paidup.db'}"

    @property
    def webhook_secrets(self) -> list[str]:
        """The signing secrets that a webhook may be signed with; several while one is rotated."""
        return split_list(self.stripe_webhook_secret)

    @property
    def origins(self) -> Origins:
        """Origins whose pages may open WebSockets; this server's own addresses by default."""
        own = ",".join(f"http://{name}:{self.port}" for name in ("127.0.0.1", "localhost"))
        return parse_origins(self.allowed_origins if self.allowed_origins.strip(" ,") else own)

    @property
    def api_origins(self) -> Origins:
        """Origins whose pages may call the API from another origin (CORS): `origins` by default."""
        if self.cors_origins.strip().lower() == CORS_NONE:
            return Origins(())
        return parse_origins(self.cors_origins) if self.cors_origins.strip(" ,") else self.origins

    def may_post(self, origin: str) -> bool:
        """Whether pages of this origin may change anything, of Paidup's own or of another."""
        return origin in self.origins or origin in self.api_origins

    @property
    def outgoing(self) -> Outgoing:
        """How Stripe and the identity provider are reached."""
        return Outgoing(self.https_proxy, self.no_proxy, self.ssl_cert_file)

    @property
    def traces(self) -> Destination:
        """Where OpenTelemetry's spans go."""
        pairs = (part.partition("=") for part in split_list(self.otel_exporter_otlp_headers))
        headers = {name.strip(): value.strip() for name, _, value in pairs}
        return Destination(
            self.otel_exporter_otlp_endpoint, headers, self.otel_service_name, self.otel_traces_sampler_arg
        )

    @property
    def proxies(self) -> list[str]:
        """Addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted."""
        return split_list(self.forwarded_allow_ips)

    @property
    def livemode(self) -> bool:
        """Whether the secret key is a live one (`sk_live_`, `rk_live_`)."""
        return self.stripe_secret_key.startswith(("sk_live_", "rk_live_"))

    @property
    def restricted_key(self) -> bool:
        """Whether the key has only the permissions that it was given."""
        return self.stripe_secret_key.startswith("rk_")

    @property
    def sells_at_stripes_prices(self) -> bool:
        """Whether Stripe's amounts are shown and charged where the plans file has others."""
        return self.price_source == "stripe"

    @property
    def sandboxed(self) -> bool:
        """Whether STRIPE_API_BASE is a sandbox."""
        return self.stripe_api_base.rstrip("/") != STRIPE_API


def load_settings(
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = ENV_FILE,
    defaults: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from `environ` (default: the process's), which overrides the file `.env`.

    A variable that is empty counts as unset in both. `env_file` names another file, or none. `defaults`
    are used for settings in neither. Raises ConfigurationError, which lists every problem.
    """
    merged = _merged(environ, env_file)
    if merged.get("STRIPE_LOG"):
        raise ConfigurationError(["STRIPE_LOG is set: Stripe's SDK would log client secrets. Unset it"])
    from_files, unreadable = read_secret_files(merged)
    if unreadable:
        raise ConfigurationError(unreadable)
    for name in LOWER_CASE_TOO:
        merged[name] = merged.get(name) or merged.get(name.lower(), "")
    given = {key: merged[key] for key in NAMES if merged.get(key, "").strip()}
    try:
        return make_settings({**(defaults or {}), **given, **from_files})
    except ConfigurationError as error:
        raise ConfigurationError([*error.problems, *misspelt_names(environ, env_file)]) from None


def values_of(*names: str) -> dict[str, str]:
    """These settings alone, unchecked, as `load_settings` would find them: for a command that needs no other.

    Raises ConfigurationError for a file that cannot be read.
    """
    known = {each for name in names for each in (name, f"{name}_FILE")}
    merged = {name: value for name, value in _merged(None, ENV_FILE).items() if name in known}
    from_files, unreadable = read_secret_files(merged)
    if unreadable:
        raise ConfigurationError(unreadable)
    return {**merged, **from_files}


def misspelt_names(environ: Mapping[str, str] | None = None, env_file: Path | None = ENV_FILE) -> list[str]:
    """A line for each name, in the environment or the file, that looks like a misspelt setting."""
    given = [name for name in _merged(environ, env_file) if not name.startswith(OTHERS_PREFIXES)]
    files = [f"{name}_FILE" for name in FROM_FILES]
    found = misspelt(set(given) - READ_BY_OTHERS, [*NAMES, *files])
    return [f"{name} is not a setting: did you mean {nearest}?" for name, nearest in found.items()]


def _merged(environ: Mapping[str, str] | None, env_file: Path | None) -> dict[str, str]:
    read = read_env_file(env_file) if env_file is not None else {}
    given = os.environ if environ is None else environ
    # Docker Compose and CI systems pass an empty text for what is not set on their side.
    return {**read, **{name: value for name, value in given.items() if value.strip() or name not in read}}


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Validate `values`, keyed by environment variable. Raises ConfigurationError."""
    values = {name: _spelt(name, value) for name, value in values.items()}
    problems = [
        *(f"{name} is missing or empty: {why}" for name, why in _REQUIRED.items() if not values.get(name)),
        *(f"{name} is not a setting" for name in values if name not in NAMES),
        *(problem for name, value in values.items() if (problem := _type_problem(name, value))),
    ]
    if problems:
        raise ConfigurationError(problems)
    settings = msgspec.convert(dict(values), Settings, strict=False, dec_hook=_to_path)
    if problems := _combination_problems(settings):
        raise ConfigurationError(problems)
    return settings


def _spelt(name: str, value: Any) -> Any:
    """A word in any case as it is defined: `info` is INFO."""
    words = {word.lower(): word for word in get_args(_TYPES.get(name)) if isinstance(word, str)}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def _type_problem(name: str, value: Any) -> str | None:
    """Why `value` is not valid for the setting, or None. Never includes the value: it may be a secret."""
    if name not in _TYPES:
        return None
    try:
        msgspec.convert(value, _TYPES[name], strict=False, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        return f"{name}: {_expected(_TYPES[name], error)}"
    return None


def _expected(kind: Any, error: msgspec.ValidationError) -> str:
    if words := [word for word in get_args(kind) if isinstance(word, str)]:
        return f"expected one of {', '.join(words)}"
    expected = str(error).partition(", got ")[0].replace("Expected", "expected")
    return re.sub(r"`(\w+)`", lambda found: _KINDS.get(found[1], found[0]), expected)


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


_TYPES = {field.encode_name: field.type for field in msgspec.structs.fields(Settings)}
NAMES = tuple(_TYPES)
LOWER_CASE_TOO = ("HTTPS_PROXY", "NO_PROXY")
"""Other programs read these in lower case as well."""

_REQUIRED = {
    "SECRET_KEY": "it signs tickets; `openssl rand -base64 32` makes one, and `paidup init` a whole .env",
    "STRIPE_SECRET_KEY": "sk_test_... or rk_test_... from the Stripe dashboard",
    "STRIPE_PUBLISHABLE_KEY": "pk_test_... from the Stripe dashboard",
    "STRIPE_WEBHOOK_SECRET": "whsec_... of the webhook endpoint, or what `stripe listen` prints",
}


def _combination_problems(settings: Settings) -> list[str]:
    problems = [*_key_problems(settings), *_url_problems(settings), *operator_problems(settings)]
    return [*problems, *checkout_problems(settings, settings.livemode), *outbound_problems(settings)]


def _key_problems(settings: Settings) -> list[str]:
    problems = _weak_secrets(settings)
    if not settings.stripe_secret_key.startswith(("sk_test_", "sk_live_", "rk_test_", "rk_live_")):
        problems.append("STRIPE_SECRET_KEY is not a secret key (sk_test_..., sk_live_..., rk_...)")
    if not settings.stripe_publishable_key.startswith(("pk_test_", "pk_live_")):
        problems.append("STRIPE_PUBLISHABLE_KEY is not a publishable key (pk_test_... or pk_live_...)")
    elif settings.stripe_publishable_key.startswith("pk_live_") != settings.livemode:
        problems.append("STRIPE_SECRET_KEY and STRIPE_PUBLISHABLE_KEY are not of the same mode (test, live)")
    if not settings.webhook_secrets or any(not s.startswith("whsec_") for s in settings.webhook_secrets):
        problems.append("STRIPE_WEBHOOK_SECRET: each of its comma-separated values starts with whsec_")
    if settings.stripe_account and not re.fullmatch(r"acct_\w+", settings.stripe_account):
        problems.append("STRIPE_ACCOUNT is not the id of a connected account (acct_...); it may be empty")
    if settings.livemode and settings.sandboxed:
        problems.append(
            "live keys with a STRIPE_API_BASE that is not Stripe's: a sandbox must never receive live keys"
        )
    shared = bool(settings.auth_jwt_secret) and "-----BEGIN" not in settings.auth_jwt_secret
    alone = shared and not settings.auth_jwks_url
    problems += algorithm_problems(split_list(settings.auth_jwt_algorithms), alone)
    if "-----BEGIN" in settings.auth_jwt_secret and not settings.auth_jwt_secret.startswith(PUBLIC_KEY):
        # It would be used as a shared secret, although it is public.
        problems.append(f"AUTH_JWT_SECRET: a public key begins with {PUBLIC_KEY}")
    return problems


def _weak_secrets(settings: Settings) -> list[str]:
    """Secrets that are easy to guess, such as placeholders. Never includes their values."""
    given = [
        ("SECRET_KEY", settings.secret_key, 16, RANDOM),
        ("STRIPE_SECRET_KEY", settings.stripe_secret_key, 32, FROM_DASHBOARD),
        ("STRIPE_PUBLISHABLE_KEY", settings.stripe_publishable_key, 32, FROM_DASHBOARD),
        *(("STRIPE_WEBHOOK_SECRET", secret, 38, FROM_ENDPOINT) for secret in settings.webhook_secrets),
        ("AUTH_JWT_SECRET", settings.auth_jwt_secret, 32, RANDOM),
        ("OPERATOR_TOKEN", settings.operator_token, 16, RANDOM),
        ("OPERATOR_READ_TOKEN", settings.operator_read_token, 16, RANDOM),
    ]
    return [
        f"{name} {fault}: {remedy}"
        for name, secret, shortest, remedy in given
        if secret and (fault := weakness(name, secret, shortest))
    ]


def _url_problems(settings: Settings) -> list[str]:
    if problems := _unparsable_urls(settings):
        return problems
    base = urlsplit(settings.stripe_api_base)
    if base.scheme not in ("http", "https") or not base.hostname:
        problems.append("STRIPE_API_BASE is not a URL such as https://api.stripe.com")
    problems += database_problems(settings.database_url)
    keys = urlsplit(settings.auth_jwks_url)
    if settings.auth_jwks_url and (keys.scheme not in ("http", "https") or not keys.hostname):
        problems.append("AUTH_JWKS_URL is not a URL such as https://id.example.com/keys")
    problems += redis_problems(settings.redis_url, settings.redis_cluster)
    problems += [*proxy_problems(settings.proxies), *settings.outgoing.problems(), *_page_problems(settings)]
    if not settings.plans_file.is_file():
        problems.append(f"PLANS_FILE: there is no file {settings.plans_file}: correct it, or leave it empty")
    return problems


def _unparsable_urls(settings: Settings) -> list[str]:
    """URLs that libraries cannot parse: their error would show a part of the password."""
    addresses = {
        "STRIPE_API_BASE": [settings.stripe_api_base],
        "REDIS_URL": split_list(settings.redis_url),
        "AUTH_JWKS_URL": [settings.auth_jwks_url],
    }
    return [
        f"{name} is not a valid URL; in a password, write special characters as %XX"
        for name, listed in addresses.items()
        if not all(map(names_a_host if name == "REDIS_URL" else can_be_parsed, listed))
    ]


def _page_problems(settings: Settings) -> list[str]:
    """Origins that no browser would send, and names that no header can have."""
    api = "" if settings.cors_origins.strip().lower() == CORS_NONE else settings.cors_origins
    headers = {"CORS_ALLOWED_HEADERS": settings.cors_allowed_headers}
    headers["CORS_EXPOSED_HEADERS"] = settings.cors_exposed_headers
    return [
        *origin_problems("ALLOWED_ORIGINS", settings.allowed_origins),
        *origin_problems("CORS_ORIGINS", api),
        *(
            f"{name}: {each!r} is not the name of a header"
            for name, listed in headers.items()
            for each in split_list(listed)
            if not HEADER_NAME.fullmatch(each)
        ),
    ]


def authentication_problems(settings: Settings) -> list[str]:
    """Whether nothing verifies the customers' tokens: every call of a customer would be answered 401."""
    if settings.auth_jwt_secret or settings.auth_jwks_url:
        return []
    return [
        "AUTH_JWT_SECRET and AUTH_JWKS_URL are both missing: set AUTH_JWT_SECRET to a secret that your "
        f"backend shares ({RANDOM}), or AUTH_JWKS_URL to the key set of your identity provider"
    ]


def process_problems(settings: Settings, verifies_tokens: bool = False) -> list[str]:
    """Problems with several processes that do not share a Redis, and with tokens that nothing verifies."""
    problems = authentication_problems(settings) if verifies_tokens else []
    if settings.web_concurrency > 1 and not settings.redis_url:
        problems.append(
            f"WEB_CONCURRENCY={settings.web_concurrency} without REDIS_URL: the processes could not exchange "
            "messages. Set REDIS_URL, or use `paidup serve`, which starts one Valkey for all its workers"
        )
    return problems


def _to_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError


def split_list(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]
