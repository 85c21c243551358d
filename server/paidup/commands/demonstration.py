"""`paidup demo`."""

from __future__ import annotations

from paidup.commands.coroutines import run
from paidup.runtime.imports import quick_imports


def demo() -> None:
    """Run the demo: Stripe sandbox (or your test keys from .env), server, reconciler and page."""
    with quick_imports("rich"):  # it is imported while the demo's processes start
        from paidup_demo.supervisor import run_demo  # noqa: PLC0415

    run(run_demo())
