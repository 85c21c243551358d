"""The FastAPI backend of a SaaS that runs Paidup as a service.

uvicorn --app-dir docs/examples async_backend:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from paidup.client import AsyncPaidup, InsufficientCreditsError, signed_with

paidup = AsyncPaidup(os.environ["PAIDUP_URL"], signed_with(os.environ["AUTH_JWT_SECRET"]))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with paidup:  # closes its connections at the end
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/users/{user}/reports/{number}")  # take the user from your session instead
async def make_report(user: str, number: int) -> dict[str, object]:
    try:
        spent = await paidup.spend(user, 5, key=f"report-{number}", reason=f"Report {number}")
    except InsufficientCreditsError as error:
        waiting_for = error.activating and {"invoice": error.activating.invoice}
        raise HTTPException(402, {"needed": error.needed, "activating": waiting_for}) from None
    return {"report": "...", "balance": spent.balance}


@app.get("/users/{user}/history")
async def history(user: str) -> list[dict[str, object]]:
    return [
        {"at": entry.at, "credits": entry.credits, "reason": entry.reason, "key": entry.key}
        async for entry in paidup.entries(user)
    ]


@app.get("/users/{user}/export")
async def export(user: str) -> dict[str, str]:
    if "pro" not in (await paidup.account(user)).running_plans:
        raise HTTPException(403, "The export is part of Pro.")
    return {"export": "..."}
