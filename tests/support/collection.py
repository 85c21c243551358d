"""What makes a parallel run quick: who imports which module first, and where the long tests go."""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

LONG = (
    "tests/chaos/",
    "tests/crash/",
    "tests/databases/",
    "tests/documents/",
    "tests/node/",
    "tests/packaging/",
    "tests/processes/",
    "tests/soak/",
    "tests/operators/test_progress.py",
    "tests/sandbox/test_command.py",
    "tests/scenarios/test_claims_in_any_order.py",
    "tests/scenarios/test_random_lives.py",
    "tests/scenarios/test_rolling_restart.py",
    "tests/security/test_one_account.py",
    "tests/unit/test_ledger_model.py",
    "tests/unit/test_migrations.py",
)
"""Where tests take ten seconds and more."""


def import_in_turns(config: pytest.Config) -> None:
    """Import all test modules, each worker beginning with another one. Does nothing for a part of the tests.

    pytest rewrites the assertions of a module whose compiled file is missing, as on a clean clone. Workers
    that import in the same order would all do that for each module, at the same time.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None or [Path(config.rootpath, each) for each in config.args] != [TESTS]:
        return
    modules = sorted(TESTS.rglob("test_*.py"))
    first = len(modules) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for path in modules[first:] + modules[:first]:
        # The collection says what is wrong with a module.
        with suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(path.relative_to(TESTS.parent).with_suffix("").parts))


def spread_long_tests(items: list[pytest.Item]) -> None:
    """Evenly over the first three quarters: at the end, one would keep a single worker busy.

    Nor do all of them begin at once, where each would take many times as long.
    """
    long = [item for item in items if item.nodeid.startswith(LONG)]
    short = [item for item in items if not item.nodeid.startswith(LONG)]
    step = len(short) * 3 // 4 // (len(long) + 1)
    items.clear()
    for number, item in enumerate(long):
        items += [*short[number * step : (number + 1) * step], item]
    items += short[len(long) * step :]
