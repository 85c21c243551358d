#!/usr/bin/env python3
"""Become the browser that `CHROMIUM` names, ignoring network changes of this machine.

Chromium drops what it is loading, from loopback too, whenever an address comes to any interface or goes
(ERR_NETWORK_CHANGED). On a machine of CI one did, and a page's modules were lost. Where the kernel gives it
no netlink socket, Chromium takes the network for one that never changes. Standard library only: it is run
as a program, by whichever Python comes first. Where this cannot be done, the browser runs as it is.

Of several `--disable-features`, Chromium takes the last; here they are made one. A desktop's Chromium without
a window still draws its own: for each, two pages of the address bar's popups, which take a fifth of a core.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

SOCKET_CALL = {"x86_64": 41, "aarch64": 198}
AF_NETLINK = 16
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EAFNOSUPPORT
CALL, FIRST_ARGUMENT = 0, 16
"""Where they stand in the kernel's `seccomp_data`, in bytes."""
DISABLE = "--disable-features="
POPUPS = ["WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup"]


class _Program(ctypes.Structure):
    """The kernel's `sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_netlink(socket_call: int) -> None:
    """No netlink socket from now on for this process and what it becomes; all else as before."""
    steps = [
        (LOAD, 0, 0, CALL),
        (JUMP_IF_EQUAL, 0, 3, socket_call),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 0, 1, AF_NETLINK),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]
    program = _Program(len(steps), b"".join(struct.pack("HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def merge_features(arguments: list[str]) -> list[str]:
    """The arguments with one list of disabled features, to which the popups are added."""
    disabled = [argument.removeprefix(DISABLE) for argument in arguments if argument.startswith(DISABLE)]
    others = [argument for argument in arguments if not argument.startswith(DISABLE)]
    return [*others, DISABLE + ",".join([*disabled, *POPUPS])]


if __name__ == "__main__":
    if platform.system() == "Linux" and platform.machine() in SOCKET_CALL:
        refuse_netlink(SOCKET_CALL[platform.machine()])
    os.execv(os.environ["CHROMIUM"], [os.environ["CHROMIUM"], *merge_features(sys.argv[1:])])
