"""The sandbox's settings. The only module here that reads the environment (and only in `from_env`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

# The version the sandbox imitates. A test holds it equal to the pin of the installed SDK.
API_VERSION = "2026-10-28.endive"
# Before this version an invoice named its PaymentIntent and its subscription at top level.
BASIL_VERSION = "2025-03-31.basil"

MAX_DELAY_MS = 600_000
DEFAULT_ORIGINS = ("http://127.0.0.1:8000", "http://localhost:8000")


class SettingsError(ValueError):
    """An invalid setting in the environment."""


@dataclass(frozen=True)
class WebhookTarget:
    """A webhook endpoint that exists from the start, with a secret known beforehand."""

    url: str
    secret: str
    api_version: str | None = None


@dataclass(frozen=True)
class InitialPrice:
    """A price that exists from the start; `interval` is None for one that is paid once."""

    lookup_key: str
    currency: str
    unit_amount: int
    interval: str | None


@dataclass(frozen=True)
class InitialProduct:
    """A product that exists from the start, with its prices."""

    id: str
    name: str
    metadata: tuple[tuple[str, str], ...]
    prices: tuple[InitialPrice, ...]


@dataclass(frozen=True)
class SandboxSettings:
    """Everything that can be chosen. `data_file` None keeps the state in memory only."""

    host: str = "127.0.0.1"
    port: int = 8001
    data_file: Path | None = None
    webhooks: tuple[WebhookTarget, ...] = ()
    products: tuple[InitialProduct, ...] = ()
    allowed_origins: tuple[str, ...] = DEFAULT_ORIGINS
    allowed_hosts: tuple[str, ...] = ()
    """Additional host names under which the sandbox is reached."""
    webhook_hosts: tuple[str, ...] = ()
    """Additional hosts to which webhooks may be delivered."""
    webhook_retry_delays_s: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)
    webhook_timeout_s: float = 10
    webhook_delay_ms: int = 0
    """The condition of that name at the start."""
    save_interval_s: float = 1

    @property
    def origin(self) -> str:
        """Where its pages are, for what no request asks for."""
        return f"http://{self.host}:{self.port}"

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> SandboxSettings:
        """Settings from `SANDBOX_*`; raises SettingsError naming the variable that is wrong."""
        data = env.get("SANDBOX_DATA", "")
        return cls(
            host=env.get("SANDBOX_HOST") or cls.host,
            port=_port(env.get("SANDBOX_PORT") or str(cls.port)),
            data_file=Path(data) if data else None,
            webhooks=_webhooks(env.get("SANDBOX_WEBHOOK_URL", ""), env.get("SANDBOX_WEBHOOK_SECRET", "")),
            allowed_origins=_listed(env.get("SANDBOX_ALLOWED_ORIGINS", "")) or DEFAULT_ORIGINS,
            allowed_hosts=_hosts("SANDBOX_ALLOWED_HOSTS", env),
            webhook_hosts=_hosts("SANDBOX_WEBHOOK_HOSTS", env),
            webhook_delay_ms=_delay_ms(env.get("SANDBOX_WEBHOOK_DELAY_MS") or "0"),
        )

    def delivers_to(self, host: str) -> bool:
        """Whether webhooks may be delivered to this external host."""
        return host in self.webhook_hosts or host in {urlsplit(hook.url).hostname for hook in self.webhooks}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _hosts(name: str, env: Mapping[str, str]) -> tuple[str, ...]:
    hosts = tuple(host.lower() for host in _listed(env.get(name, "")))
    for host in hosts:
        if "/" in host or "*" in host:
            raise SettingsError(
                f"{name}: {host!r} is not a host; use a host such as shop.example or 192.0.2.7"
            )
    return hosts


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"SANDBOX_PORT must be a port number, not {text!r}")
    return int(text)


def _delay_ms(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_DELAY_MS:
        raise SettingsError(
            f"SANDBOX_WEBHOOK_DELAY_MS must be milliseconds up to {MAX_DELAY_MS}, not {text!r}"
        )
    return int(text)


def _webhooks(url: str, secret: str) -> tuple[WebhookTarget, ...]:
    if not url:
        return ()
    if not secret.startswith("whsec_"):
        raise SettingsError("SANDBOX_WEBHOOK_URL needs a SANDBOX_WEBHOOK_SECRET that begins with whsec_")
    return (WebhookTarget(url, secret),)
