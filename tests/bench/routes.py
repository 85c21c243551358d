"""What is waited for, where so many invoices are settled: `tests.bench.growth` measures it.

The application is called in this process, without sockets.
"""

from __future__ import annotations

import random
import statistics
import time
from itertools import cycle

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

CUSTOMERS = 8
"""So many ask in turn: their rows are in memory once they have asked, those of most others are not."""
Found = dict[str, tuple[float, float, int]]
"""Of each request: milliseconds, of a customer who has asked before and of one who has not, and rows."""


async def requests_of(app: Starlette, size: int) -> dict[str, Action]:
    """What is asked for, by an account in the middle of the table and about `CUSTOMERS` random ones."""
    account = await Account.get(external_id=f"user-{size // 2}")
    doing = Doing(app, account).actions
    operator = [(b"authorization", f"Bearer {OPERATOR_TOKEN}".encode())]

    def reading(path: str, of_operators: bool = False) -> Action:
        """GET of this path, with each customer's number in turn."""
        numbers = cycle(random.choices(range(1, size + 1), k=CUSTOMERS))

        async def read() -> None:
            number = next(numbers)
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
    for _ in range(CUSTOMERS + rounds):
        for name, act in requests.items():
            began = time.perf_counter()
            await act()
            took[name].append((time.perf_counter() - began) * 1000)
    found: Found = {}
    for name, act in requests.items():
        async with counting() as read:
            await act()
        first, later = took[name][:CUSTOMERS], took[name][CUSTOMERS:]
        found[name] = statistics.median(later), statistics.median(first), read.total()
    return found
