"""The server has the browser client for pages that load it by its address."""

from __future__ import annotations

import base64
import hashlib

import aiohttp

import paidup as package
from tests.support.paidup import ORIGIN, Paidup
from tests.support.processes import ROOT

SDK = ROOT / "client_demo" / "paidup_demo" / "sdk"


async def test_each_file_has_the_integrity_hash_that_the_index_says(
    paidup: Paidup, http: aiohttp.ClientSession
) -> None:
    status, index = await paidup.get("/sdk.json")
    assert (status, index["version"]) == (200, package.__version__)
    assert sorted(index["files"]) == [
        "element/activation.js",
        "element/look.js",
        "element/words.js",
        "paidup.js",
    ]
    for name, file in index["files"].items():
        async with http.get(paidup.url + file["path"]) as response:
            content = await response.read()
            assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert response.content_type == "text/javascript"
        assert content == (SDK / name).read_bytes()
        assert file["integrity"] == f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"


async def test_pages_of_any_origin_may_load_it(paidup: Paidup, http: aiohttp.ClientSession) -> None:
    """Also of one that the API refuses, and without an origin: a shared cache keeps one copy for all."""
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://elsewhere.test", "*"), (None, "*")):
        headers = {"Origin": origin} if origin else {}
        async with http.get(f"{paidup.url}/sdk/latest/paidup.js", headers=headers) as response:
            assert response.headers["Access-Control-Allow-Origin"] == allowed


async def test_the_newest_is_revalidated(paidup: Paidup, http: aiohttp.ClientSession) -> None:
    url = f"{paidup.url}/sdk/latest/paidup.js"
    async with http.get(url) as first:
        assert first.headers["Cache-Control"] == "no-cache"
    async with http.get(url, headers={"If-None-Match": first.headers["ETag"]}) as second:
        assert (second.status, await second.read()) == (304, b"")
    async with http.get(url, headers={"If-None-Match": '"another"'}) as third:
        assert third.status == 200


async def test_another_version_and_any_other_file_are_not_found(paidup: Paidup) -> None:
    for path in ("0.0.1/paidup.js", "latest/element/other.js", "latest/element/..%2Freact.js"):
        status, problem = await paidup.get(f"/sdk/{path}")
        assert (status, problem["status"]) == (404, 404)
