"""The tests' browser ignores network changes of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.browsers import PROGRAM

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
    deaf = subprocess.run(
        [PROGRAM, "-c", REFETCH],
        env={"CHROMIUM": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert deaf.stdout == "EAFNOSUPPORT\n"
