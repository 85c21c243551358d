"""`paidup demo`: starts the demo's processes, waits until they are ready, and stops them on exit.

The processes are the sandbox (unless .env holds Stripe test keys), the server with its page and its
reconciler, and the embedded Valkey. Their secrets are kept under the data directory. With the sandbox, the
page can also request faults: a restart of the server, or a frozen Valkey (`timeline/fault_injection.py`).
Live keys are an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp

from paidup.db.connection import migrate
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import ConfigurationError, PaidupError
from paidup.operations.price_setup import ensure_prices
from paidup.operations.progress import progress_steps
from paidup.runtime.embedded_valkey import embedded_valkey
from paidup.runtime.env_file import read_env_file
from paidup.runtime.listening import listening_problem
from paidup.runtime.private_files import PRIVATE_DIRECTORY, private_file
from paidup.runtime.redis_client import connect_redis
from paidup.runtime.terminal import WholeLines
from paidup.settings import ENV_FILE, Settings, load_settings
from paidup.stripe_api.gateway import open_gateway
from paidup.stripe_api.rate_limiter import RateLimiter
from paidup_demo.timeline.fault_injection import FaultAction, FaultInjector, control_socket

START_WITHIN_S = 30.0
STOP_WITHIN_S = 12.0
POLL_INTERVAL_S = 0.2
REDIS_OUTAGE_S = 8.0
WEBHOOK_DELAY_MS = 5000
"""Stripe's webhooks take some seconds, too. The preset "Normal" of the demo's page has the same."""
SANDBOX_KEY = "sk_test_paidup_sandbox_no_stripe_account"

STEPS = 4
"""Of the start, as `on_step` names them."""

console = WholeLines()


class ChildFailed(PaidupError):
    """A process of the demo ended unexpectedly, or did not start in time."""


async def run_demo() -> None:
    """Run until SIGINT or SIGTERM. Raises ConfigurationError, ChildFailed."""
    began = time.monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    environment = demo_environment({**_from_file(), **_not_empty(os.environ)})
    settings = load_settings(environment, env_file=None)
    if settings.livemode:
        # Before anything is started, and before prices are created in that account.
        raise ConfigurationError(["the demo runs with test keys only"])
    _check_ports(settings, environment)
    with ExitStack() as starting, embedded_valkey(settings.data_dir) as redis_url:
        on_step = starting.enter_context(progress_steps("Starting", STEPS))
        environment["REDIS_URL"] = settings.redis_url or redis_url
        frozen = None if settings.redis_url else await _valkey_process(redis_url)
        async with (
            _children(settings, environment, on_step) as children,
            _fault_injection(settings, environment, children, frozen),
        ):
            starting.close()
            _introduce(settings, environment, time.monotonic() - began)
            await _until_stopped(stop, children)
    console.print("Stopped.")


def _introduce(settings: Settings, environment: dict[str, str], seconds: float) -> None:
    console.print(f"Paidup demo: [bold]http://{settings.host}:{settings.port}[/bold] ({seconds:.1f} s)")
    if _runs_sandbox(environment):
        console.print(f"Sandbox:     {settings.stripe_api_base} (an imitation of Stripe; no real payments)")
    else:
        console.print("Stripe:      your test keys from .env; run `stripe listen` for the webhooks")
    console.print("Press Ctrl-C to stop.")


def demo_environment(given: dict[str, str]) -> dict[str, str]:
    """The environment of the demo's processes; without Stripe keys, it includes the sandbox's settings."""
    environment = dict(given)
    data_dir = Path(environment.setdefault("DATA_DIR", ".paidup"))
    environment.setdefault("LOG_LEVEL", "WARNING")
    environment["RECONCILER_IN_SERVER"] = "true"
    if environment.get("STRIPE_SECRET_KEY"):
        environment.setdefault("SECRET_KEY", _stored_secrets(data_dir)["SECRET_KEY"])
        return environment
    port = environment.setdefault("PORT", "8000")
    environment.setdefault("SANDBOX_PORT", "8001")
    environment.setdefault("SANDBOX_WEBHOOK_DELAY_MS", str(WEBHOOK_DELAY_MS))
    sandbox_port = _sandbox_port(environment)
    stored = _stored_secrets(data_dir)
    return environment | {
        **stored,
        "STRIPE_SECRET_KEY": SANDBOX_KEY,
        "STRIPE_PUBLISHABLE_KEY": "pk_test_paidup_sandbox_no_stripe_account",
        "STRIPE_API_BASE": f"http://127.0.0.1:{sandbox_port}",
        "SANDBOX_DATA": str(data_dir / "sandbox.json"),
        "SANDBOX_WEBHOOK_URL": f"http://127.0.0.1:{port}/webhooks/stripe",
        "SANDBOX_WEBHOOK_SECRET": stored["STRIPE_WEBHOOK_SECRET"],
        "SANDBOX_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
    }


def _runs_sandbox(environment: dict[str, str]) -> bool:
    """Whether the demo starts its own sandbox."""
    return environment["STRIPE_SECRET_KEY"] == SANDBOX_KEY


def _sandbox_port(environment: dict[str, str]) -> int:
    text = environment["SANDBOX_PORT"]
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigurationError([f"SANDBOX_PORT: {text!r} is not a port number"])
    return int(text)


def _from_file() -> dict[str, str]:
    return _not_empty(read_env_file(ENV_FILE))


def _not_empty(given: Mapping[str, str]) -> dict[str, str]:
    """As in `load_settings`, an empty variable counts as unset."""
    return {name: value for name, value in given.items() if value.strip()}


def _stored_secrets(data_dir: Path) -> dict[str, str]:
    """Secrets created once and stored, so that tickets and webhooks survive a restart of the demo."""
    path = data_dir / "secrets.json"
    if path.is_file():
        stored: dict[str, str] = json.loads(private_file(path).read_text())
        return stored
    made = {
        "SECRET_KEY": secrets.token_urlsafe(32),
        "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(24)}",
    }
    data_dir.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    private_file(path).write_text(json.dumps(made))
    return made


def _check_ports(settings: Settings, environment: dict[str, str]) -> None:
    wanted = {"PORT": settings.port}
    if _runs_sandbox(environment):
        wanted["SANDBOX_PORT"] = _sandbox_port(environment)
    found = (listening_problem(settings.host, port, port_name=name) for name, port in wanted.items())
    if problems := [problem for problem in found if problem]:
        raise ConfigurationError(sorted(set(problems)))


Children = dict[str, asyncio.subprocess.Process]


@asynccontextmanager
async def _children(
    settings: Settings, environment: dict[str, str], on_step: Callable[[str], None]
) -> AsyncIterator[Children]:
    children: Children = {}
    try:
        if _runs_sandbox(environment):
            children["sandbox"] = await _start("paidup_demo.sandbox", environment)
        on_step("database")
        await migrate(settings.effective_database_url)  # while the sandbox starts
        if _runs_sandbox(environment):
            on_step("sandbox")
            await _wait_until_ready(f"{settings.stripe_api_base}/sandbox/health", children)
        on_step("prices")
        await _create_prices(settings, environment["REDIS_URL"])
        on_step("server")
        await _start_server(settings, environment, children)
        yield children
    finally:
        await asyncio.gather(*(_stop(child) for child in reversed(children.values())))


async def _start_server(settings: Settings, environment: dict[str, str], children: Children) -> None:
    children["server"] = await _start("paidup_demo.app", environment)
    await _wait_until_ready(f"http://{settings.host}:{settings.port}/readyz", children)


@asynccontextmanager
async def _fault_injection(
    settings: Settings, environment: dict[str, str], children: Children, valkey: int | None
) -> AsyncIterator[None]:
    """Serve the page's fault requests if the demo runs a sandbox. `valkey` is its process id."""
    if not _runs_sandbox(environment):
        yield
        return

    async def restart() -> None:
        stopping = children.pop("server")  # so its exit is not taken for a failure
        try:
            await _stop(stopping)
        finally:
            if stopping.returncode is None:
                stopping.kill()  # the whole demo is stopping
        await _start_server(settings, environment, children)

    actions: dict[str, FaultAction] = {"restart": restart}
    if valkey is not None:
        actions["redis"] = partial(_freeze, valkey)
    async with FaultInjector(actions).served(control_socket(settings.data_dir)):
        yield


async def _freeze(process: int) -> None:
    os.kill(process, signal.SIGSTOP)
    try:
        await asyncio.sleep(REDIS_OUTAGE_S)
    finally:
        os.kill(process, signal.SIGCONT)


async def _valkey_process(url: str) -> int:
    redis = connect_redis(url, cluster=False)
    try:
        return int((await redis.info("server"))["process_id"])
    finally:
        await redis.aclose()


async def _start(module: str, environment: dict[str, str]) -> asyncio.subprocess.Process:
    # A new session: Ctrl-C in the terminal reaches only this process, which stops the children in order.
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env=environment, start_new_session=True
    )


async def _stop(child: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


async def _wait_until_ready(url: str, children: Children) -> None:
    """Wait until `url` answers 200. Raises ChildFailed if a process ends or time runs out."""
    deadline = time.monotonic() + START_WITHIN_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while time.monotonic() < deadline:
            _raise_for_ended(children)
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise ChildFailed(f"{url} did not answer within {START_WITHIN_S:.0f} s")


def _raise_for_ended(children: Children) -> None:
    for name, child in children.items():
        if child.returncode is not None:
            raise ChildFailed(f"the {name} exited with code {child.returncode}")


async def _create_prices(settings: Settings, redis_url: str) -> None:
    catalogue = parse_catalogue(settings.plans_file.read_bytes(), str(settings.plans_file))
    redis = connect_redis(redis_url, settings.redis_cluster)
    rate_limiter = RateLimiter(redis, settings.stripe_requests_per_second)
    key, base = settings.stripe_secret_key, settings.stripe_api_base
    try:
        timeout_s, outgoing = settings.stripe_timeout_s, settings.outgoing
        async with open_gateway(key, base, timeout_s, rate_limiter, outgoing=outgoing) as gateway:
            await ensure_prices(gateway, catalogue)
    finally:
        await redis.aclose()


async def _until_stopped(stop: asyncio.Event, children: Children) -> None:
    while not stop.is_set():
        _raise_for_ended(children)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_INTERVAL_S):
                await stop.wait()
