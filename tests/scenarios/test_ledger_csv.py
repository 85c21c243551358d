"""The ledger as a file for a spreadsheet: complete, bounded, with nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from paidup.db.models import Account
from paidup.web import ledger_api
from tests.conftest import World
from tests.support.factories import granted
from tests.support.paidup import Customer, Paidup, serving, settings
from tests.support.processes import free_port


async def download(customer: Customer, path: str, **claims: Any) -> tuple[list[list[str]], str | None]:
    """The rows of one file, and the path of the next one."""
    headers = {"Authorization": f"Bearer {customer.token(**claims)}"}
    async with customer.http.get(customer.paidup.url + path, headers=headers) as answer:
        text = await answer.text()
        assert (answer.status, answer.content_type) == (200, "text/csv"), text
        assert answer.headers["Content-Disposition"] == 'attachment; filename="ledger.csv"'
        link = answer.headers.get("Link")
    following = link and link.removesuffix('>; rel="next"').removeprefix("<")
    return list(csv.reader(io.StringIO(text))), following


async def test_a_ledger_is_complete_file_by_file(paidup: Paidup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_api, "CSV_ENTRIES", 3)
    monkeypatch.setattr(ledger_api, "READ_AT_ONCE", 2)
    ada, eve = paidup.customer("ada"), paidup.customer("eve")
    for customer in (ada, eve):
        await customer.balance()
        account = await Account.get(external_id=customer.name)
        account.stripe_customer = f"cus_{customer.name}"  # of the invoice alone
        await granted(account, 100)
    reasons = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", 'Report "7", new', "Résumé"]
    for number, reason in enumerate(reasons):
        body = {"credits": 1, "key": f"={number}", "reason": reason}
        assert (await ada.call("POST", "/api/credits/spend", body))[0] == 200
    rows: list[list[str]] = []
    path: str | None = "/api/account/entries.csv"
    sizes = []
    while path:
        (header, *found), path = await download(ada, path, scope="backend")
        assert header == ["id", "at", "kind", "credits", "balance", "reason", "key"]
        sizes.append(len(found))
        rows += found
    assert sizes == [3, 3, 1]
    assert [row[5] for row in reversed(rows)][1:] == [
        *("'=cmd|' /C calc'!A0", "'+1", "'-1", "'@SUM(A1)"),
        *('Report "7", new', "Résumé"),
    ]
    assert [row[6] for row in reversed(rows)] == ["", *(f"'={number}" for number in range(6))]
    assert [row[3] for row in rows] == ["-1"] * 6 + ["100"], "a number stays one"
    _, listed = await ada.call("GET", "/api/account/entries")
    assert [str(entry["id"]) for entry in listed["entries"]] == [row[0] for row in rows]
    others, _ = await download(eve, "/api/account/entries.csv")
    assert len(others) == 2
    status, refused = await ada.call("GET", "/api/account/entries.csv?starting_after=x")
    assert (status, refused["type"].rpartition("/")[2]) == (422, "invalid-input")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_next_file_is_found_below_a_hosts_prefix(
    world: World, paidup: Paidup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_api, "CSV_ENTRIES", 1)
    ada = paidup.customer("ada")
    await ada.balance()
    account = await Account.get(external_id="ada")
    account.stripe_customer = "cus_ada"  # of the invoice alone
    await granted(account, 100)
    assert (await ada.spend(1, "a"))[0] == 200
    host = Starlette(routes=[Mount("/billing", paidup.app)])
    async with serving(settings(**world.given()), ada.http, free_port(), app=host) as mounted:
        first, path = await download(mounted.customer("ada"), "/billing/api/account/entries.csv")
        assert path is not None
        second, end = await download(mounted.customer("ada"), path)
    assert ([row[3] for row in (first[1], second[1])], end) == (["-1", "100"], None)
