"""For tests of your own product: a running sandbox, and a running Paidup that uses it.

Both are processes of their own on free ports, with a SQLite file and a Valkey that end with them. Nothing of
the environment reaches them, so that a test's server never opens the database of a real one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from paidup.client import Paidup, page_token, signed_with

START_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0
POLL_S = 0.05
ASK_AGAIN_S = 1.0
ATTEMPTS = 3
INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
SECRET_KEY = "sk_test_paidup_sandbox_no_stripe_account"  # noqa: S105 (the sandbox takes any test key)
PUBLISHABLE_KEY = "pk_test_paidup_sandbox_no_stripe_account"


class DidNotStart(RuntimeError):
    """A process ended, or did not answer in time. The message has its output."""


class SandboxRefused(RuntimeError):
    """The sandbox answered a call with an error. The message has the call and the answer."""


class Sandbox:
    """A running sandbox: the conditions, the clock, and what a customer's browser does at Stripe."""

    secret_key = SECRET_KEY
    publishable_key = PUBLISHABLE_KEY

    def __init__(self, url: str) -> None:
        self.url = url
        # Not urllib.request: it would send this through the proxy of the environment.
        self._http = urllib3.PoolManager(timeout=30.0, retries=False)

    def control(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """POST /sandbox/{path}."""
        return self._checked("POST", f"/sandbox/{path}", json=dict(body or {}))

    def read(self, path: str) -> Any:
        """GET /sandbox/{path}."""
        return self._checked("GET", f"/sandbox/{path}")

    def conditions(self, **changes: Any) -> Any:
        """Change conditions: `conditions(webhook_drop=True)`; returns all of them."""
        return self.control("conditions", changes)

    def reset_conditions(self) -> None:
        """Back to the normal conditions."""
        self.control("conditions/reset")

    def advance(self, days: int = 0, hours: int = 0, seconds: int = 0) -> None:
        """Move Stripe's clock ahead; renewals and retries that become due are run, in order."""
        total = (days * 24 + hours) * 3600 + seconds
        self.control("clock", {"advance_seconds": total})

    def send_webhooks_to(self, url: str, secret: str) -> None:
        """Send every later event to this URL, too, signed with `secret` (whsec_...)."""
        self.control("webhook_endpoints", {"url": url, "secret": secret})

    def stripe(self, method: str, path: str, **form: Any) -> Any:
        """Call Stripe's API with the secret key: `stripe("POST", "refunds", payment_intent="pi_...")`."""
        return self._checked(method, f"/v1/{path}", key=SECRET_KEY, fields=form)

    def confirm(self, client_secret: str, payment_method: str = "pm_card_visa") -> Any:
        """What `stripe.confirmCardPayment` does: the intent as Stripe answers it, or {"error": ...}.

        Other payment methods: https://docs.stripe.com/testing#cards, such as pm_card_visa_chargeDeclined.
        """
        form = {"client_secret": client_secret, "payment_method": payment_method}
        path = f"/v1/{_intent(client_secret)}/confirm"
        return self._call("POST", path, key=PUBLISHABLE_KEY, fields=form).json()

    def authenticate(self, client_secret: str, passed: bool = True) -> None:
        """Answer the bank's 3DS challenge."""
        outcome = "pass" if passed else "fail"
        self.control(f"{_intent(client_secret)}/authenticate", {"outcome": outcome})

    def complete_checkout(self, session: str, card: str = "pm_card_visa", **typed: Any) -> Any:
        """What a customer does on the page of a Checkout Session; `typed` is their email, name or address.

        Its status then, and `redirect_to`: where the page goes. A declined card is {"error": ...}.
        """
        typed = {"email": "customer@example.com", **typed}
        path = f"/sandbox/checkout/{session}/complete"
        return self._call("POST", path, json={"card": card, **typed}).json()

    def reset(self) -> None:
        """Delete everything but the prices and endpoints that it was started with."""
        self.control("reset")

    def _checked(self, method: str, path: str, **options: Any) -> Any:
        answer = self._call(method, path, **options)
        if answer.status >= 400:
            raise SandboxRefused(f"{method} {path}: {answer.status} {answer.data.decode()}")
        return answer.json()

    def _call(
        self,
        method: str,
        path: str,
        *,
        key: str = "",
        fields: Mapping[str, Any] | None = None,
        json: Any = None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if json is not None:
            return self._http.request(method, self.url + path, json=json, headers=headers)
        form = {name: str(value) for name, value in (fields or {}).items()}
        if method in ("GET", "DELETE"):
            return self._http.request_encode_url(method, self.url + path, form, headers)
        # Stripe takes forms, not multipart.
        return self._http.request_encode_body(method, self.url + path, form, headers, encode_multipart=False)


class PaidupServer:
    """A running Paidup. `client` is your backend's; `token(user)` is what your page would have."""

    def __init__(self, url: str, sandbox: Sandbox, environment: Mapping[str, str]) -> None:
        self.url = url
        self.sandbox = sandbox
        self.auth_jwt_secret = environment["AUTH_JWT_SECRET"]
        self.environment = dict(environment)
        self.client = Paidup(url, signed_with(self.auth_jwt_secret))

    def token(self, user: str) -> str:
        """A page token for this user."""
        return page_token(self.auth_jwt_secret, user)

    def buy(self, user: str, plan: str, payment_method: str = "pm_card_visa", within_s: float = 30.0) -> int:
        """Subscribe or top up, pay, and wait for the credits; returns the balance. Raises AssertionError."""
        top_ups = {each.id for each in self.client.plans() if each.top_up}
        sell = self.client.top_up if plan in top_ups else self.client.subscribe
        purchase = sell(user, plan)
        assert purchase.client_secret is not None, f"{plan} has nothing to pay"
        paid = self.sandbox.confirm(purchase.client_secret, payment_method)
        assert "error" not in paid, paid["error"]["message"]
        return self.wait_until_active(user, purchase.invoice, within_s)

    def wait_until_active(self, user: str, invoice: str, within_s: float = 30.0) -> int:
        """Wait for the credits of a paid invoice; returns the balance. Raises AssertionError.

        Like the customer's page, it has Paidup ask Stripe: the webhook may be late or lost.
        """
        deadline = time.monotonic() + within_s
        while (status := self.client.adopt(user, invoice).status).status != "active":
            assert time.monotonic() < deadline, f"{invoice} is {status.status} after {within_s:.0f} s"
            time.sleep(ASK_AGAIN_S)
        return self.client.credits(user).balance


@contextmanager
def running_sandbox(plans: Path, origins: str = "") -> Iterator[Sandbox]:
    """`paidup sandbox` with the prices of this file, until the block ends. Raises DidNotStart.

    `origins`: of the pages that use its Stripe.js, comma-separated.
    """
    with _home() as home:
        command = ("sandbox", "--plans", str(plans.resolve()))
        with _serving(
            command, {"SANDBOX_ALLOWED_ORIGINS": origins}, home, "SANDBOX_PORT", "/sandbox/health"
        ) as url:
            yield Sandbox(url)


@contextmanager
def running_paidup(sandbox: Sandbox, settings: Mapping[str, str]) -> Iterator[PaidupServer]:
    """`paidup serve` at this sandbox, with `settings` beside those it needs. Raises DidNotStart."""
    with _home() as home:
        webhook_secret = f"whsec_{secrets.token_hex(24)}"
        environment = {
            "STRIPE_API_BASE": sandbox.url,
            "STRIPE_SECRET_KEY": SECRET_KEY,
            "STRIPE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
            "STRIPE_WEBHOOK_SECRET": webhook_secret,
            "SECRET_KEY": secrets.token_urlsafe(32),
            "AUTH_JWT_SECRET": secrets.token_urlsafe(32),
            "DATA_DIR": str(home),
            "RECONCILER_IN_SERVER": "true",
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        _run_once(("migrate",), environment, home)
        with _serving(("serve",), environment, home, "PORT", "/readyz") as url:
            sandbox.send_webhooks_to(f"{url}/webhooks/stripe", environment["STRIPE_WEBHOOK_SECRET"])
            yield PaidupServer(url, sandbox, environment)


def _intent(client_secret: str) -> str:
    """The path of the intent that a client secret belongs to."""
    intent = client_secret.partition("_secret_")[0]
    return f"{'setup_intents' if intent.startswith('seti_') else 'payment_intents'}/{intent}"


@contextmanager
def _home() -> Iterator[Path]:
    """An empty directory with a short path: Unix sockets need one."""
    folder = Path(tempfile.mkdtemp(prefix="paidup-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _serving(
    command: tuple[str, ...], environment: Mapping[str, str], home: Path, port_setting: str, ready: str
) -> Iterator[str]:
    """The address of a command that serves. Another program may take the port first: then another one."""
    for attempt in range(1, ATTEMPTS + 1):
        port = _free_port()
        log = home / f"{command[0]}.log"
        process = _start(command, {**environment, port_setting: str(port)}, home, log)
        url = f"http://127.0.0.1:{port}"
        try:
            if _answers(url + ready, process, log, last=attempt == ATTEMPTS):
                yield url
                return
        finally:
            _stop(process)


def _start(
    command: tuple[str, ...], environment: Mapping[str, str], home: Path, log: Path
) -> subprocess.Popen[bytes]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 (this package's own commands)
            [sys.executable, "-m", "paidup", *command],
            env={**inherited, **environment},
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches pytest alone, which ends it
        )


def _run_once(command: tuple[str, ...], environment: Mapping[str, str], home: Path) -> None:
    log = home / f"{command[0]}.log"
    process = _start(command, environment, home, log)
    try:
        code = process.wait(START_WITHIN_S)
    finally:
        _stop(process)
    if code:
        raise DidNotStart(f"paidup {command[0]} exited with code {code}:\n{log.read_text(errors='replace')}")


def _answers(url: str, process: subprocess.Popen[bytes], log: Path, last: bool) -> bool:
    """Whether `url` answers 200; False if the process found its port taken, unless it was the last try."""
    deadline = time.monotonic() + START_WITHIN_S
    with urllib3.PoolManager(timeout=2.0, retries=False) as http:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                output = log.read_text(errors="replace")
                if "in use" in output and not last:
                    return False
                raise DidNotStart(f"paidup exited with code {process.returncode}:\n{output}")
            try:
                if http.request("GET", url).status == 200:
                    return True
            except urllib3.exceptions.HTTPError:
                pass  # it does not listen yet
            time.sleep(POLL_S)
    raise DidNotStart(f"{url} did not answer in {START_WITHIN_S:.0f} s:\n{log.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
