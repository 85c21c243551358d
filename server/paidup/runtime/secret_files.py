"""Secrets from files, as Docker, Kubernetes and systemd hand them over: `STRIPE_SECRET_KEY_FILE=/run/...`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FROM_FILES = (
    *("SECRET_KEY", "STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY", "STRIPE_WEBHOOK_SECRET"),
    *("AUTH_JWT_SECRET", "OPERATOR_TOKEN", "OPERATOR_READ_TOKEN"),
    *("DATABASE_URL", "REDIS_URL", "HTTPS_PROXY", "EVENT_SECRET"),
)
"""The settings that may be secret: for each, NAME_FILE names a file that holds the value."""
MAX_BYTES = 64 * 1024


def read_secret_files(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The values that `environ` names files for, and what is wrong. No problem shows a value."""
    values: dict[str, str] = {}
    problems = []
    for name in FROM_FILES:
        path = environ.get(f"{name}_FILE", "").strip()
        if not path:
            continue
        if environ.get(name, "").strip():
            problems.append(f"{name} and {name}_FILE are both set: choose one")
            continue
        try:
            values[name] = _read(Path(path))
        except ValueError as error:
            problems.append(f"{name}_FILE: {path} {error}")
    return values, problems


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode().strip()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("is not text in UTF-8") from None
    if len(content) > MAX_BYTES or not text:
        raise ValueError("is empty" if not text else f"is larger than {MAX_BYTES} bytes")
    return text
