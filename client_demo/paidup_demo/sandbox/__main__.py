"""`python -m paidup_demo.sandbox`: serves the sandbox as the environment (see settings.py) says."""

from __future__ import annotations

import sys

import uvicorn

from paidup_demo.sandbox.app import create_sandbox
from paidup_demo.sandbox.settings import SandboxSettings, SettingsError


def main() -> int:
    """Serve until SIGINT or SIGTERM."""
    try:
        settings = SandboxSettings.from_env()
    except SettingsError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    uvicorn.run(
        create_sandbox(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=3,
        ws="none",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
