"""Paidup inside a FastAPI application; both read the same bearer token.

uvicorn --app-dir docs/examples embedded_fastapi:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from paidup.client import InsufficientCreditsError
from paidup.mounting import InProcess, create_app, running
from paidup.settings import load_settings

settings = load_settings()
paidup = create_app(settings)  # reads the same token with AUTH_JWT_SECRET


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with running(paidup) as app.state.credits:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/billing", paidup)


def current_user(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    try:
        claims = jwt.decode(bearer.credentials, settings.auth_jwt_secret, ["HS256"])
    except jwt.PyJWTError:
        raise HTTPException(401, "Please sign in.") from None
    return str(claims["sub"])


def in_process(request: Request) -> InProcess:
    credits: InProcess = request.app.state.credits
    return credits


User = Annotated[str, Depends(current_user)]
Credits = Annotated[InProcess, Depends(in_process)]


@app.post("/reports/{number}")
async def make_report(number: int, user: User, credits: Credits) -> dict[str, object]:
    try:
        spent = await credits.spend(user, 5, key=f"report-{number}")
    except InsufficientCreditsError as error:
        activating = error.activating  # a payment may be in progress
        waiting_for = {"invoice": activating.invoice, "ticket": activating.ticket} if activating else None
        raise HTTPException(402, {"needed": error.needed, "activating": waiting_for}) from None
    return {"report": "...", "balance": spent.balance}
