"""An identity provider that publishes its keys, or fails as a test needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.support.processes import free_port

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def jwk(key: PrivateKey, kid: str, **members: Any) -> dict[str, Any]:
    """The public half, as a provider publishes it."""
    public = key.public_key()
    text = RSAAlgorithm.to_jwk(public) if isinstance(public, rsa.RSAPublicKey) else ECAlgorithm.to_jwk(public)
    return {**json.loads(text), "kid": kid, "use": "sig", **members}


class Provider:
    """Responds with `keys`, or with `status` and `body` if set, or, while `hangs`, not at all."""

    def __init__(self, url: str, keys: list[dict[str, Any]]) -> None:
        self.url = url
        self.keys = keys
        self.status = 200
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self.fetches = 0
        self._free = asyncio.Event()
        self._free.set()

    @property
    def hangs(self) -> bool:
        return not self._free.is_set()

    @hangs.setter
    def hangs(self, yes: bool) -> None:
        (self._free.clear if yes else self._free.set)()

    async def answer(self, _: web.Request) -> web.Response:
        self.fetches += 1
        await self._free.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return web.Response(body=body, status=self.status, headers=self.headers)


@asynccontextmanager
async def provider(*keys: dict[str, Any]) -> AsyncIterator[Provider]:
    """A provider that publishes these keys, at its own URL."""
    port = free_port()
    told = Provider(f"http://127.0.0.1:{port}/keys", list(keys))
    application = web.Application()
    application.router.add_get("/keys", told.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield told
    finally:
        told.hangs = False
        await runner.cleanup()


@asynccontextmanager
async def published(key: Mapping[str, str]) -> AsyncIterator[str]:
    """The address of a key set (RFC 7517) with one key."""
    async with provider(dict(key)) as told:
        yield told.url


def signed(key: PrivateKey, kid: str, claims: dict[str, Any]) -> str:
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return jwt.encode(claims, key, algorithm, headers={"kid": kid})
