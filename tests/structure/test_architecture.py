"""Rules of the architecture that no tool can check. Imports: [tool.importlinter]; the rest: ruff."""

from __future__ import annotations

import ast

import grimp
import pytest

from tests.structure.sources import modules, within

MAX_FUNCTION_LINES = 50
MAX_TOP_LEVEL_IMPORTS = 132


def test_no_module_uses_the_pubsub_class_of_redis_py() -> None:
    """realtime/redis_connection.py subscribes over plain connections; it says why."""
    users = {
        name for name in modules() if any(used.endswith(".pubsub") for used in modules()[name].attributes)
    }
    assert users == set()


def test_serving_writes_to_the_environment_and_reads_nothing_from_it() -> None:
    for node in ast.walk(modules()["paidup.uvicorn_server"].tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            assert isinstance(node.ctx, ast.Store)


def _made_by(call: ast.Call) -> list[str]:
    """The class that a call makes an instance of, if it makes one: by its constructor, or by `new_row`."""
    first = call.args[:1] if ast.unparse(call.func) == "new_row" else [call.func]
    return [ast.unparse(each) for each in first]


def test_only_the_ledger_writes_grants_entries_and_balances() -> None:
    """No other module creates such a row or changes a balance."""
    writing = {
        f"{table}.{how}"
        for table in ("LedgerEntry", "CreditGrant")
        for how in ("create", "bulk_create", "update_or_create", "get_or_create", "save")
    }
    writers = {name for name in modules() if writing & set(modules()[name].attributes)}
    assert writers == set()
    makers = {
        name
        for name in modules()
        for node in ast.walk(modules()[name].tree)
        if isinstance(node, ast.Call) and {"LedgerEntry", "CreditGrant"} & set(_made_by(node))
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
    # A reversal, and a failed debit, reduce the grants of their own invoice first, and work out by how much.
    moving = ("ledger", "moves", "reversals", "trust")
    assert movers["remaining"] == {f"paidup.credits.{name}" for name in moving}


def test_the_application_is_a_table_of_contents() -> None:
    assert modules()["paidup.app"].lines < 100


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


@pytest.mark.parametrize("name", modules())
def test_no_function_is_longer_than_a_screen(name: str) -> None:
    functions = modules()[name].functions()
    assert [(function, lines) for function, lines in functions if lines > MAX_FUNCTION_LINES] == []


def test_few_imports_join_the_packages() -> None:
    """Counted once for each pair of packages and modules at the top level of `paidup`."""
    graph = grimp.build_graph("paidup", cache_dir=None)
    joined = {
        (_top(importer), _top(imported))
        for importer in graph.modules - {"paidup"}
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    between = {pair for pair in joined if pair[0] != pair[1] and pair[1] != "paidup"}
    assert len(between) <= MAX_TOP_LEVEL_IMPORTS


def _top(module: str) -> str:
    return ".".join(module.split(".")[:2])
