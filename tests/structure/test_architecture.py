"""The architecture, held: who may import whom, who may do what, and how long a thing may be."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter

import pytest

from tests.structure.sources import importers, imports, modules, ours, reaches, within

MAX_FUNCTION_LINES = 70
CORE = within("paidup.domain")


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_errors_the_standard_library_and_msgspec_alone(name: str) -> None:
    """It decides; adapters do. No redis, stripe, tortoise, starlette, clock or environment."""
    allowed = {"msgspec", *sys.stdlib_module_names}
    doing = {"os", "time", "random", "asyncio", "socket", "secrets", "pathlib", "subprocess", "threading"}
    for used in imports(name):
        if used.startswith("paidup"):
            assert used == "paidup.errors" or used in CORE
        else:
            top = used.partition(".")[0]
            assert top in allowed
            assert top not in doing


def test_errors_import_nothing_of_ours() -> None:
    assert ours("paidup.errors") == frozenset()


def test_no_module_imports_itself_through_others() -> None:
    # Raises CycleError, which names the cycle.
    order = list(TopologicalSorter({name: ours(name) for name in modules()}).static_order())
    assert set(order) == set(modules())


def test_settlement_asks_nobody_and_tells_nobody() -> None:
    """It receives facts: neither the Stripe gateway nor the hub is within its reach, however indirectly."""
    assert not reaches("paidup.payments.settlement") & {
        "paidup.stripe_api.gateway",
        "paidup.realtime.hub",
        "paidup.payments.verification",
    }
    assert "stripe" not in {used for name in reaches("paidup.payments.settlement") for used in imports(name)}


LAYERS = [
    ["paidup.db.models"],
    ["paidup.credits.ledger"],
    ["paidup.payments.settlement"],
    ["paidup.payments.verification"],
    ["paidup.reconciliation.stripe_events", "paidup.subscriptions.checkout"],
    ["paidup.reconciliation.reconciler"],
    ["paidup.services"],
    within("paidup.web"),
    ["paidup.app"],
    ["paidup.uvicorn_server", "paidup.mounting"],
    ["paidup.cli"],
]


@pytest.mark.parametrize("height", range(1, len(LAYERS)))
def test_imports_run_one_way(height: int) -> None:
    """web -> verification, reconciliation -> settlement -> ledger -> models; never back up."""
    above = {name for layer in LAYERS[height:] for name in layer}
    for name in LAYERS[height - 1]:
        assert not reaches(name) & (above - set(LAYERS[height - 1]))


def test_only_the_gateway_imports_stripe() -> None:
    assert importers("stripe") == {"paidup.stripe_api.gateway"}


def test_only_the_wires_use_pubsub() -> None:
    """Through the connections of redis-py, and not through its PubSub: see there why."""
    users = {
        name for name in modules() if any(used.endswith(".pubsub") for used in modules()[name].attributes())
    }
    assert users == set()
    assert importers("hiredis") == {"paidup.realtime.redis_connection"}


def test_only_settings_reads_the_environment() -> None:
    """With three exceptions, each with its reason."""
    allowed = {
        "paidup.settings",
        "paidup.uvicorn_server",  # writes there the Redis that its worker processes are to share
        "paidup_demo.supervisor",  # makes the environment of the processes that it starts
        "paidup_demo.sandbox.settings",  # a program of its own, which knows nothing of the server
    }
    reading = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
    readers = {name for name in modules() if reading & set(modules()[name].attributes())}
    assert readers == allowed
    assert importers("dotenv") == {"paidup.settings", "paidup_demo.supervisor"}


def test_serving_writes_to_the_environment_and_reads_nothing_from_it() -> None:
    for node in ast.walk(modules()["paidup.uvicorn_server"].tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            assert isinstance(node.ctx, ast.Store)


def test_the_server_knows_nothing_of_the_demo() -> None:
    """But for the command that starts it, which imports it when it runs."""
    users = {
        name for name in within("paidup") if any(used.startswith("paidup_demo") for used in imports(name))
    }
    assert users == {"paidup.cli"}
    top_level = [ast.unparse(node) for node in modules()["paidup.cli"].tree.body]
    assert not [line for line in top_level if line.startswith(("import paidup_demo", "from paidup_demo"))]


def test_the_web_is_imported_by_the_application_and_its_embedding_alone() -> None:
    users = {
        name for name in within("paidup") if any(used.startswith("paidup.web") for used in imports(name))
    }
    assert users - set(within("paidup.web")) == {"paidup.app", "paidup.mounting"}


def test_the_sandbox_knows_nothing_of_the_server_or_the_rest_of_the_demo() -> None:
    """The server knows only its address: so tests cross the real road to Stripe."""
    sandbox = set(within("paidup_demo.sandbox"))
    for name in sandbox:
        strangers = {used for used in imports(name) if used.startswith(("paidup.", "paidup_demo"))} - sandbox
        assert strangers <= {"paidup_demo"}, name
        assert "stripe" not in {used.partition(".")[0] for used in imports(name)}


def test_only_the_ledger_writes_grants_entries_and_balances() -> None:
    """One road to a credit: nobody else makes such a row or moves a balance."""
    writing = {
        f"{table}.{how}"
        for table in ("LedgerEntry", "CreditGrant")
        for how in ("create", "bulk_create", "update_or_create", "get_or_create", "save")
    }
    writers = {name for name in modules() if writing & set(modules()[name].attributes())}
    assert writers == set()
    makers = {
        name
        for name in modules()
        for node in ast.walk(modules()[name].tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("LedgerEntry", "CreditGrant")
    }
    assert makers == {"paidup.credits.ledger"}
    movers: dict[str, set[str]] = {"balance": set(), "remaining": set()}
    for name in modules():
        for node in ast.walk(modules()[name].tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            moved = [
                of for of in targets if isinstance(of, ast.Attribute) and ast.unparse(of.value) != "self"
            ]
            for what in {of.attr for of in moved} & movers.keys():
                movers[what].add(name)
    assert movers["balance"] == {"paidup.credits.ledger"}
    # What money takes back is taken from its own grants first: how much of each, reversals.py works out.
    assert movers["remaining"] == {"paidup.credits.ledger", "paidup.credits.reversals"}


def test_the_wall_clock_is_in_one_place() -> None:
    """So that a test can replace it."""
    asking = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    assert {name for name in within("paidup") if asking & set(modules()[name].attributes())} == {
        "paidup.clock"
    }


def test_the_application_is_a_table_of_contents() -> None:
    assert modules()["paidup.app"].lines < 100


@pytest.mark.parametrize("name", modules())
def test_a_module_says_at_its_top_what_it_is_for(name: str) -> None:
    docstring = ast.get_docstring(modules()[name].tree)
    assert docstring
    first = docstring.partition("\n\n")[0]
    assert len(first) >= 25
    assert any(mark in first for mark in ".:")


@pytest.mark.parametrize("name", modules())
def test_no_function_is_longer_than_a_screen(name: str) -> None:
    assert [
        (function, lines) for function, lines in modules()[name].functions() if lines > MAX_FUNCTION_LINES
    ] == []


@pytest.mark.parametrize("name", within("paidup"))
def test_importing_a_module_connects_to_nothing(name: str) -> None:
    """Nothing at the top level is awaited, opened or run."""
    running = {"open", "run", "connect", "from_url", "start", "init", "create_task"}
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        for statement in modules()[name].tree.body
        if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    }
    assert not called & running
