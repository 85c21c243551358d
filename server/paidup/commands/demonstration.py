"""`paidup demo`."""

from __future__ import annotations

from paidup.commands.coroutines import run


def demo() -> None:
    """Run the demo: Stripe sandbox (or your test keys from .env), server, reconciler and page."""
    from paidup_demo.supervisor import run_demo  # noqa: PLC0415

    run(run_demo())
