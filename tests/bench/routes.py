"""What is waited for, where so many invoices are settled: `tests.bench.growth` measures it.

The application is called in this process, without sockets.
"""

from __future__ import annotations

import random
import statistics
import time

from starlette.applications import Starlette

from paidup.client import backend_token
from paidup.db.models import Account
from tests.support.asgi import ask
from tests.support.grown_accounts import Action, Doing
from tests.support.paidup import JWT_SECRET
from tests.support.rows_read import counting

OPERATOR_TOKEN = "operator-token-of-the-bench-32-characters"
OF_ALL = {"a slice of the audit"}
"""Of `Doing`'s actions, those that nobody waits for."""

Found = dict[str, tuple[float, int]]
"""Of each request: milliseconds and rows."""


async def requests_of(app: Starlette, size: int) -> dict[str, Action]:
    """What is asked for, by an account in the middle of the table and about random rows."""
    account = await Account.get(external_id=f"user-{size // 2}")
    doing = Doing(app, account).actions
    operator = [(b"authorization", f"Bearer {OPERATOR_TOKEN}".encode())]

    def reading(path: str, of_operators: bool = False) -> Action:
        """GET of this path, with another number each time."""

        async def read() -> None:
            number = random.randint(1, size)
            token = backend_token(JWT_SECRET, f"user-{number}")
            headers = operator if of_operators else [(b"authorization", f"Bearer {token}".encode())]
            status, _, body = await ask(app, path.format(n=number), headers)
            assert status in (200, 303), (path, body)

        return read

    customers = (
        *("/api/invoices/in_{n}", "/api/checkout/cs_test_{n}", "/api/account/balance", "/api/account"),
        *("/api/entitlements", "/api/credits", "/api/account/entries"),
    )
    operators = (
        *("/operators", "/operators/find?ref=user-{n}", "/operators/invoices/in_{n}"),
        *("/operators/account?id=user-{n}", "/operators/event?id=evt_{n}", "/operators/audit-log"),
        *("/operators/api/corrections", "/operators/api/corrections?account=user-{n}"),
        *("/operators/api/deliveries", "/operators/api/deliveries?account=user-{n}"),
        *("/operators/api/deliveries?invoice=in_{n}", "/operators/api/endpoints", "/readyz"),
    )
    return {
        **{name: act for name, act in doing.items() if name not in OF_ALL and not name.startswith("GET")},
        **{f"GET {path}": reading(path) for path in customers},
        **{f"GET {path}": reading(path, of_operators=True) for path in operators},
    }


async def timed_requests(requests: dict[str, Action], rounds: int) -> Found:
    took: dict[str, list[float]] = {name: [] for name in requests}
    for turn in range(rounds + 1):
        for name, act in requests.items():
            began = time.perf_counter()
            await act()
            if turn:  # the first warms
                took[name].append((time.perf_counter() - began) * 1000)
    found: Found = {}
    for name, act in requests.items():
        async with counting() as read:
            await act()
        found[name] = statistics.median(took[name]), read.total()
    return found
