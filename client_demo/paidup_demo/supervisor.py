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
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from paidup.commands.output import console
from paidup.errors import ConfigurationError, PaidupError
from paidup.operations.progress import progress_steps
from paidup.runtime.embedded_valkey import embedded_valkey
from paidup.runtime.env_file import read_env_file
from paidup.runtime.listening import listening_problem
from paidup.runtime.private_files import PRIVATE_DIRECTORY, private_file
from paidup.settings import ENV_FILE, Settings, load_settings
from paidup_demo.readiness import ANSWER_WITHIN_S, LOOK_EVERY_S, START_WITHIN_S, answers
from paidup_demo.timeline.fault_injection import FaultAction, FaultInjector, control_socket

STOP_WITHIN_S = 12.0
POLL_INTERVAL_S = 0.2
REDIS_OUTAGE_S = 8.0
WEBHOOK_DELAY_MS = 5000
"""Stripe's webhooks take some seconds, too. The preset "Normal" of the demo's page has the same."""
SANDBOX_KEY = "sk_test_paidup_sandbox_no_stripe_account"


SERVER = "paidup_demo.app"
MISCONFIGURED = 2
"""The exit code of a process that found a mistake in the settings."""


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
    with embedded_valkey(settings.data_dir) as redis_url:
        environment["REDIS_URL"] = settings.redis_url or redis_url
        frozen = None if settings.redis_url else await _valkey_process(redis_url)
        async with (
            _children(settings, environment) as children,
            _fault_injection(settings, environment, children, frozen),
        ):
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
    """The environment of the demo's processes: without keys of an account, with its sandbox's settings.

    `paidup init --sandbox` writes the sandbox's key into .env: it is of no account.
    """
    environment = dict(given)
    data_dir = Path(environment.setdefault("DATA_DIR", ".paidup"))
    environment.setdefault("LOG_LEVEL", "WARNING")
    environment["RECONCILER_IN_SERVER"] = "true"
    if environment.get("STRIPE_SECRET_KEY", SANDBOX_KEY) != SANDBOX_KEY:
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
    try:
        data_dir.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        private_file(path).write_text(json.dumps(made))
    except OSError as error:
        raise ConfigurationError(
            [f"DATA_DIR: {path} cannot be written ({error.strerror}): set DATA_DIR to another path"]
        ) from error
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
async def _children(settings: Settings, environment: dict[str, str]) -> AsyncIterator[Children]:
    """The processes, started at once: most of a second of each goes into imports."""
    children: Children = {}
    sandbox = f"{settings.stripe_api_base}/sandbox/health" if _runs_sandbox(environment) else ""
    try:
        if sandbox:
            children["sandbox"] = await _start(environment, "paidup_demo.sandbox.__main__")
        children["server"] = await _start(environment, SERVER, "prepare", sandbox)
        with progress_steps("Starting", 2 if sandbox else 1) as on_step:
            if sandbox:
                on_step("sandbox")
                await _wait_until_ready(sandbox, children)
            on_step("server")
            await _wait_until_ready(_readyz(settings), children)
        yield children
    finally:
        await asyncio.gather(*(_stop(child) for child in reversed(children.values())))


def _readyz(settings: Settings) -> str:
    return f"http://{settings.host}:{settings.port}/readyz"


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
        children["server"] = await _start(environment, SERVER)
        await _wait_until_ready(_readyz(settings), children)

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
    """Its id, as the Valkey says. redis-py would take longer to import than the rest of this module."""
    async with asyncio.timeout(ANSWER_WITHIN_S):
        reader, writer = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        try:
            writer.write(b"INFO server\r\n")
            said = await reader.readexactly(int((await reader.readline())[1:]))
        finally:
            writer.close()
    fields = dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
    return int(fields["process_id"])


async def _start(environment: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    # A new session: Ctrl-C in the terminal reaches only this process, which stops the children in order.
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paidup_demo.process", *arguments, env=environment, start_new_session=True
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
    while time.monotonic() < deadline:
        _raise_for_ended(children)
        if await answers(url):
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise ChildFailed(f"{url} did not answer within {START_WITHIN_S:.0f} s")


def _raise_for_ended(children: Children) -> None:
    for name, child in children.items():
        if child.returncode == MISCONFIGURED:
            raise ConfigurationError([])  # it has said why
        if child.returncode is not None:
            raise ChildFailed(f"the {name} exited with code {child.returncode}")


async def _until_stopped(stop: asyncio.Event, children: Children) -> None:
    while not stop.is_set():
        _raise_for_ended(children)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_INTERVAL_S):
                await stop.wait()
