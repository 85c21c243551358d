"""Install the programs that tests run and pip cannot bring, or say in one line what to install.

`make test` runs this first: `python -m tests.support.system_packages`. It uses apt-get where this user may.
BROWSER_TESTS=0 leaves Chromium out, and the browser tests with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGES = {
    "chromium-headless-shell": "chromium-headless-shell",
    "nginx": "nginx-light",
    "caddy": "caddy",
    "haproxy": "haproxy",
    "pgbouncer": "pgbouncer",
    "initdb": "postgresql",
    "openssl": "openssl",
    "ip": "iproute2",
}
"""Each program's package in Debian, and in Ubuntu, which has none of Chromium."""
ALSO = {"chromium-headless-shell": ("chromium", "chromium-browser", "google-chrome")}
ONLY_LINUX = {"ip"}


def missing_packages(environment: Mapping[str, str]) -> list[str]:
    """The packages of the programs that are not on PATH."""
    wanted = set(PACKAGES)
    if environment.get("BROWSER_TESTS") == "0":
        wanted -= {"chromium-headless-shell"}
    if sys.platform != "linux":
        wanted -= ONLY_LINUX
    # Debian keeps PostgreSQL's programs off PATH. The one in the wheel has no TLS.
    off_path = map(str, Path("/usr/lib/postgresql").glob("*/bin"))
    path = ":".join([environment.get("PATH", ""), "/usr/sbin", *off_path])
    return sorted(
        PACKAGES[name]
        for name in wanted
        if not any(shutil.which(each, path=path) for each in (name, *ALSO.get(name, ())))
    )


def apt_get() -> list[str] | None:
    """apt-get as root, or None where it is not there or this user may not run it."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return ["apt-get"]
    if shutil.which("sudo") is None:
        return None
    allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    return ["sudo", "-E", "apt-get"] if allowed else None


def main() -> None:
    """Install what is missing. Exits with one line where apt-get is not there, not allowed, or fails."""
    missing = missing_packages(os.environ)
    if not missing:
        return
    command = apt_get()
    needed = f"make test needs {', '.join(missing)}: install it"
    if PACKAGES["chromium-headless-shell"] in missing:
        needed += " (Chrome or any Chromium will do), or set BROWSER_TESTS=0 to go without"
    if command is None:
        raise SystemExit(needed)
    # RUNLEVEL=1: an installed nginx is not started as a service.
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["install", "-y", "-qq", "--no-install-recommends", *missing]
    for arguments in (["update", "-qq"], install):
        if subprocess.run(
            [*command, *arguments], env=quiet, stdout=subprocess.DEVNULL, check=False
        ).returncode:
            raise SystemExit(needed)


if __name__ == "__main__":
    main()
