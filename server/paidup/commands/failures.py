"""How a process ends that cannot go on: one line for each problem, and an exit code. It imports little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from paidup.errors import ConfigurationError, DatabaseUnreachable, PaidupError, StripeUnavailable


@contextmanager
def failures_in_one_line() -> Iterator[None]:
    """Exit code 1, or 2 for a mistake in the settings."""
    try:
        yield
    except ConfigurationError as error:
        _exit(2, "settings", *error.problems)
    except DatabaseUnreachable as error:
        _exit(2, "settings", str(error))
    except StripeUnavailable as error:
        where = "see status.stripe.com, STRIPE_API_BASE and this host's outbound network"
        _exit(1, "error", f"Stripe could not be asked ({error}): {where}")
    except PaidupError as error:
        _exit(1, "error", str(error))
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("paidup_demo"):
            raise
        _exit(1, "error", "the demo and the sandbox are not in this image: pip install 'paidup[demo]'")


def _exit(code: int, label: str, *problems: str) -> NoReturn:
    from rich.markup import escape  # noqa: PLC0415 (see commands/output.py)

    from paidup.commands.output import error_console  # noqa: PLC0415

    for problem in problems:
        error_console.print(f"[red]{label}:[/red] {escape(problem)}", highlight=False)
    raise SystemExit(code) from None
