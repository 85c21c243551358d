"""The source code as the structure tests see it: modules, imports, functions. Parsed, never run."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("server/paidup", "client_demo/paidup_demo")
GENERATED = ("paidup.db.migrations",)


@dataclass(frozen=True)
class Module:
    """One file. `name` is dotted, a package's is its folder's."""

    name: str
    path: Path
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def functions(self) -> Iterator[tuple[str, int]]:
        """Each function's name and its length in lines."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield node.name, node.end_lineno - node.lineno + 1

    @cached_property
    def attributes(self) -> frozenset[str]:
        """Every dotted expression, such as `os.environ` or `datetime.now`."""
        return frozenset(ast.unparse(node) for node in ast.walk(self.tree) if isinstance(node, ast.Attribute))


@cache
def modules() -> dict[str, Module]:
    """Our modules by their dotted names, without the generated ones."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to((ROOT / package).parent).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            if not name.startswith(GENERATED):
                found[name] = Module(name, path, is_package)
    return found


def within(package: str) -> list[str]:
    return [name for name in modules() if f"{name}.".startswith(f"{package}.")]


@cache
def tracked() -> list[Path]:
    """The files that git keeps, and those that it would keep next."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
