"""The tests' browser ignores network changes of the machine, and disables all features that were named."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.browsers import PROGRAM
from tests.support.chromium import POPUPS

REFETCH = """
import errno, socket
socket.socket(socket.AF_INET).close()
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="netlink is Linux's")
def test_the_browser_ignores_network_changes() -> None:
    """An address that came to an interface, in the middle of a run of CI, had cost a page its modules."""
    assert _run("-c", REFETCH) == "EAFNOSUPPORT\n"


def test_features_that_are_disabled_one_after_the_other_all_are() -> None:
    """Chromium takes the last `--disable-features` only: a test's own had undone Playwright's."""
    became = _run(
        "-c", "import sys; print(sys.argv[1:])", "--disable-features=A,B", "--c", "--disable-features=D"
    )
    assert became == f"['--c', '--disable-features=A,B,D,{','.join(POPUPS)}']\n"


def _run(*arguments: str) -> str:
    """What the program prints, where the browser that it becomes is Python."""
    return subprocess.run(
        [PROGRAM, *arguments],
        env={"CHROMIUM": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
