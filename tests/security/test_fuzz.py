"""Random bytes, sent to running servers: no 500, and no server error is logged.

The short form runs with all tests; FUZZ_REQUESTS says how many requests each server gets, FUZZ_SEED
where they begin, FUZZ_EXAMPLES how many schemathesis makes of each operation.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import requests

from paidup_demo.supervisor import demo_environment
from tests.contracts.conftest import token_of
from tests.contracts.test_http import Signed
from tests.security.raw_requests import Maker, send
from tests.support.contracts import OPENAPI, document
from tests.support.generated_requests import check_each_request, each_operation
from tests.support.paidup import ORIGIN, WEBHOOK_SECRET, Customer, Paidup, environment, serving_process
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import StripeSide, sign

if TYPE_CHECKING:
    from schemathesis import Case

pytestmark = pytest.mark.xdist_group("fuzz")  # one set of servers for all of them

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
AT_ONCE = 16
OPERATOR_TOKEN = "operator-token-of-the-fuzzer"
FAULTS = re.compile(
    r"Traceback|Exception in ASGI|without completing handshake|handshake_failed|the sandbox failed"
)
BODIES: dict[str, dict[str, Any]] = {
    "/api/subscriptions": {"plan": "pro", "interval": "month", "quantity": 1},
    "/api/subscriptions/change": {"plan": "basic", "interval": "month", "quantity": 1},
    "/api/subscriptions/cancel": {"when": "period_end"},
    "/api/subscriptions/resume": {},
    "/api/top-ups": {"plan": "extra", "quantity": 1},
    "/api/invoices": {"invoice": "in_1"},
    "/api/credits/spend": {"credits": 1, "key": "k"},
    "/api/credits/reserve": {"credits": 1, "key": "r", "expires_in_s": 60},
    "/api/credits/commit": {"credits": 1, "key": "r"},
    "/api/credits/release": {"key": "r"},
}


class Servers:
    """A sandbox, a server for each WebSocket implementation, the demo, and their log files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[str, int] = {}
        self.children: list[Child] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, valkey: str, template: Path) -> None:
        self.ports["sandbox"] = free_port()
        port = str(self.ports["sandbox"])
        child = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": port}, self.log("sandbox"), forked=True)
        self.children.append(child)
        child.wait_for(f"{self.url('sandbox')}/sandbox/health")
        asyncio.run(_prices(self.url("sandbox")))
        for name in ("lightweight", "uvicorn"):
            self.ports[name] = free_port()
            env = environment(**self._given(name, valkey, template), websocket_protocol=name)
            self.children.append(serving_process(env, self.ports[name], self.log(name), forked=True))
        self.ports["demo"] = free_port()
        self.children.append(self._demo(self._given("demo", valkey, template)))

    def _given(self, name: str, valkey: str, template: Path) -> dict[str, Any]:
        database = self.folder / f"{name}.db"
        shutil.copy(template, database)
        return {
            "redis_url": valkey,
            "database_url": f"sqlite://{database}",
            "stripe_api_base": self.url("sandbox"),
            "data_dir": self.folder,
            "operator_token": OPERATOR_TOKEN,
            # Otherwise rate limits would refuse requests before they are parsed.
            "purchases_per_minute": 1_000_000,
            "adoptions_per_minute": 1_000_000,
        }

    def _demo(self, given: dict[str, Any]) -> Child:
        variables = environment(**given, port=self.ports["demo"], allowed_origins=self.url("demo"))
        demo = demo_environment({**variables, "SANDBOX_PORT": str(self.ports["sandbox"])})
        child = Child(["-m", "paidup_demo.app"], demo, self.log("demo"), forked=True)
        child.wait_for(f"{self.url('demo')}/readyz")
        return child

    def stop(self) -> None:
        for child in self.children:
            child.stop()


async def _prices(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        await StripeSide(url, http).create_prices()


@pytest.fixture(scope="module")
def servers(
    valkey: str, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    started = Servers(tmp_path_factory.mktemp("fuzz"))
    try:
        started.start(valkey, sqlite_template)
        yield started
    finally:
        started.stop()


@pytest.mark.timeout(120 + REQUESTS)
@pytest.mark.parametrize("name", ["lightweight", "uvicorn"])
async def test_no_bytes_end_in_a_500(servers: Servers, name: str) -> None:
    """Raw requests and handshakes with malformed parts, including a valid token and ticket."""
    async with aiohttp.ClientSession() as http:
        paidup = Paidup(servers.url(name), http)
        ada = paidup.customer(f"ada-{name}")  # the others of this file buy as "ada"
        paid = await ada.buy()
        await StripeSide(servers.url("sandbox"), http).confirm(paid["client_secret"])
        await ada.call("POST", "/api/invoices", {"invoice": paid["invoice"]})
        assert await ada.balance() == 2000
        _, purchase = await ada.call("POST", "/api/top-ups", {"plan": "extra"})
        tickets = [purchase["ticket"], await ada.account_ticket(), "", "paidup.v1", "\u00e9"]
        maker = _maker(servers, name, ada, purchase["invoice"], tickets)
        statuses = await _sent(servers, name, maker)
        assert statuses[200], "some are good"
        assert (await paidup.get("/healthz"))[0] == 200
        async with http.get(f"{paidup.url}/metrics") as response:
            assert 'paidup_requests_failed_total{status="500"}' not in await response.text()


def _maker(servers: Servers, name: str, ada: Customer, invoice: str, tickets: list[str]) -> Maker:
    paths = [path.replace("{invoice}", invoice) for path in document(OPENAPI)["paths"]]
    event = b'{"a": 1}'
    known = {
        "Host": f"127.0.0.1:{servers.ports[name]}",
        "Authorization": f"Bearer {ada.token(scope='backend', exp=int(time.time()) + 36_000)}",
        "Origin": ORIGIN,
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Cookie": "session=1",
        "Stripe-Signature": sign(event, WEBHOOK_SECRET),
        "X-Forwarded-For": "192.0.2.1",
    }
    bodies = {**BODIES, "/api/invoices": {"invoice": invoice}}
    return Maker([*paths, f"/ws/invoices/{invoice}"], known, bodies, tickets)


@pytest.mark.timeout(120 + REQUESTS)
async def test_no_bytes_to_operators_end_in_a_500(servers: Servers) -> None:
    """The same with the operators' token."""
    known = {"Host": f"127.0.0.1:{servers.ports['lightweight']}", "Authorization": f"Bearer {OPERATOR_TOKEN}"}
    paths = ["/operators", "/operators/find", "/operators/find?ref=ada", "/operators/invoices/in_1"]
    paths += ["/operators/account?id=ada", "/operators/actions/grant", "/operators/sign-in"]
    await _sent(servers, "lightweight", Maker(paths, {**known, "Accept": "text/html"}, {}), REQUESTS // 4)
    lines = [b"GET /operators HTTP/1.1", *(f"{name}: {value}".encode() for name, value in known.items())]
    honest = b"\r\n".join([*lines, b"", b""])
    assert await send("127.0.0.1", servers.ports["lightweight"], honest, max_wait_s=30) == 200


@pytest.mark.timeout(120 + REQUESTS)
async def test_no_bytes_to_the_demo_end_in_a_500(servers: Servers) -> None:
    """The routes of the demo and the sandbox."""
    with closing(requests.Session()) as session:
        session.get(servers.url("demo"))
        cookie = "; ".join(f"{name}={value}" for name, value in session.cookies.items())
    known = {"Host": f"127.0.0.1:{servers.ports['demo']}", "Cookie": cookie, "Origin": servers.url("demo")}
    paths = [
        *(
            "/",
            "/demo/config.json",
            "/demo/customer",
            "/demo/clock",
            "/demo/timeline",
            "/demo/timeline/invoices/in_1",
        ),
        *(
            "/demo/timeline/comparison/in_1",
            "/demo/page/main.js",
            "/demo/examples/plain.html",
            "/demo/closed-tab",
        ),
    ]
    posted = {
        **BODIES,
        "/demo/posters": {"prompt": "a", "key": "k"},
        "/demo/clock": {"advance_s": 60},
        "/demo/timeline/comparison": {"plan": "pro"},
    }
    statuses = await _sent(servers, "demo", Maker([*paths, *posted], known, posted))
    assert statuses[200]


@pytest.mark.timeout(120 + REQUESTS)
async def test_no_bytes_to_the_sandbox_end_in_a_500(servers: Servers) -> None:
    """Stripe's API and the controls, imitated."""
    known = {
        "Host": f"127.0.0.1:{servers.ports['sandbox']}",
        "Authorization": "Bearer sk_test_of_the_fuzzer_and_of_no_account",
        "Idempotency-Key": "k",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    paths = [
        *("/v1/prices", "/v1/customers", "/v1/invoices", "/v1/subscriptions", "/v1/events", "/v1/refunds"),
        *(
            "/v1/payment_intents/pi_1/confirm",
            "/v1/invoices/in_1",
            "/v1/webhook_endpoints",
            "/challenge/pi_1",
        ),
        *("/sandbox/health", "/sandbox/calls", "/panel", "/stripe.js", "/v1/nothing"),
    ]
    await _sent(servers, "sandbox", Maker(paths, known, {"/sandbox/conditions": {"webhook_delay_ms": 0}}))


async def _sent(servers: Servers, name: str, maker: Maker, count: int = REQUESTS) -> Counter[int | None]:
    """The number of responses per status. Fails, showing the requests, if one is a server error."""
    seeds = iter(range(SEED, SEED + count))
    statuses: Counter[int | None] = Counter()
    faults: list[str] = []

    async def worker() -> None:
        for seed in seeds:
            request = maker.request(seed)
            status = await send("127.0.0.1", servers.ports[name], request, max_wait_s=0.5)
            statuses[status] += 1
            if status is not None and status >= 500 and status != 503:
                faults.append(f"{seed}: {status} {request[:2000]!r}")

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    print(f"{name}: {dict(statuses)}")
    assert faults == []
    logged = servers.log(name).read_text(errors="replace")
    found = [logged[fault.start() : fault.start() + 6000] for fault in FAULTS.finditer(logged)]
    assert found == [], "\n\n".join(found)
    return statuses


@each_operation
def test_undocumented_input_is_refused(method: str, path: str, servers: Servers) -> None:
    """Every parameter, header and body that docs/openapi.yaml forbids: never a 5xx."""
    from schemathesis.checks import not_a_server_error

    def check(case: Case[Any]) -> None:
        options: dict[str, Any] = {}
        if case.path.startswith("/webhooks"):
            options["auth"] = Signed()
        elif "authorization" not in {name.lower() for name in case.headers}:
            token = OPERATOR_TOKEN if case.path.startswith("/operators") else token_of("ada")
            options["headers"] = {"Authorization": f"Bearer {token}"}
        case.call_and_validate(servers.url("lightweight"), checks=[not_a_server_error], **options)

    check_each_request(method, path, check, {"generation": {"mode": "negative"}}, EXAMPLES)
