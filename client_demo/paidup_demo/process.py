"""`python -m paidup_demo.process MODULE [ARGUMENT ...]`: runs a module of the demo, as a command is run.

The arguments go to the module's `main`. A mistake in the settings is one line, and exit code 2.
"""

from __future__ import annotations

import sys
from importlib import import_module

from paidup.commands.failures import failures_in_one_line
from paidup.runtime.imports import quick_imports


def main() -> int | None:
    """Import and run it."""
    _, name, *arguments = sys.argv
    with failures_in_one_line():
        with quick_imports("rich"):  # both processes log, and draw nothing
            module = import_module(name)
        code: int | None = module.main(*arguments)
        return code


if __name__ == "__main__":
    sys.exit(main())
