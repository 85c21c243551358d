"""Ends the embedded Valkey after its last user, however that ended: a process of its own, without imports.

Every user holds a shared lock on one file, which the system releases when the process ends, after SIGKILL
too. The watchdog waits for the exclusive one.

Run as `python valkey_watchdog.py LOCK STARTING SOCKET PRESENCE`. STARTING is a file that is empty unless a
start of the Valkey is under way, or was cut off. PRESENCE is an open file that the watchdog inherits, whose
lock tells users that there is one.
"""

import fcntl
import os
import signal
import socket
import sys
import time

SHUTDOWN_WITHIN_S = 2.0
START_WITHIN_S = 5.0
"""A Valkey whose start was cut off listens by then, or was never started."""
PEER = (socket.SOL_SOCKET, socket.SO_PEERCRED) if sys.platform == "linux" else (0, 2)
"""The option that has the process at a socket's other end: macOS calls it SOL_LOCAL, LOCAL_PEERPID."""


def shut_down(address: str) -> bool:
    """Tell the Valkey at this socket to end, and wait until it has. Returns whether there was one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SHUTDOWN_WITHIN_S)
        try:
            connection.connect(address)
            connection.sendall(b"SHUTDOWN NOSAVE\r\n")
            connection.recv(1024)  # nothing: it closes the connection as it ends
        except TimeoutError:  # it is stopped (SIGSTOP), as the demo's outage of Redis does
            os.kill(connection.getsockopt(*PEER), signal.SIGKILL)
        except OSError:
            return False
    return True


def main(lock: str, starting: str, address: str, presence: str) -> None:
    """Wait for the last user to end, and end the Valkey."""
    users = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_EX)
    os.close(int(presence))  # before the next user gets the lock: it starts a watchdog of its own
    deadline = time.monotonic() + START_WITHIN_S
    while not shut_down(address) and _is_marked(starting) and time.monotonic() < deadline:
        time.sleep(0.05)


def _is_marked(starting: str) -> bool:
    try:
        return os.path.getsize(starting) > 0
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
