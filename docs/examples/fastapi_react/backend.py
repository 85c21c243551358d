"""The FastAPI backend of docs/fastapi-react.md: its own users and sessions, with Paidup beside it.

uvicorn --app-dir docs/examples/fastapi_react --port 3000 backend:app
"""

import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import jwt
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from paidup.client import (
    APIConnectionError,
    APIStatusError,
    AsyncPaidup,
    InsufficientCreditsError,
    page_token,
    signed_with,
)

PAIDUP_URL, SECRET = os.environ["PAIDUP_URL"], os.environ["AUTH_JWT_SECRET"]
SESSION_SECRET = os.environ["SESSION_SECRET"]
paidup = AsyncPaidup(PAIDUP_URL, signed_with(SECRET))
users = sqlite3.connect(os.environ.get("USERS_DB", "users.db"), isolation_level=None)
users.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, email TEXT UNIQUE)")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with paidup:
        yield


app = FastAPI(lifespan=lifespan)


class SignIn(BaseModel):
    email: str


@app.post("/app/sign-in")
async def sign_in(body: SignIn) -> dict[str, str]:
    users.execute("INSERT OR IGNORE INTO users (email) VALUES (?)", (body.email,))  # check a password here
    (number,) = users.execute("SELECT id FROM users WHERE email = ?", (body.email,)).fetchone()
    claims = {"sub": f"user-{number}", "exp": int(time.time()) + 3600}
    return {"session": jwt.encode(claims, SESSION_SECRET, "HS256")}


def current_user(bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    try:
        return str(jwt.decode(bearer.credentials, SESSION_SECRET, ["HS256"])["sub"])
    except jwt.PyJWTError:
        raise HTTPException(401, "Please sign in.") from None


User = Annotated[str, Depends(current_user)]


@app.get("/app/billing")
async def billing(user: User) -> dict[str, str]:
    """What the page needs to call Paidup itself. The token is valid for ten minutes, and cannot spend."""
    return {"baseUrl": PAIDUP_URL, "token": page_token(SECRET, user)}


class Poster(BaseModel):
    id: str = Field(max_length=100)  # made by the page, once for each poster: a repeated request has the same


@app.post("/app/posters")
async def make_poster(body: Poster, user: User) -> dict[str, Any]:
    spent = await paidup.spend(user, 5, key=f"poster-{body.id}", reason="Poster")
    return {"poster": body.id, "balance": spent.balance}


class Video(BaseModel):
    id: str = Field(max_length=100)
    seconds: int = Field(gt=0, le=600)


@app.post("/app/videos", status_code=202)
async def make_video(body: Video, user: User, background: BackgroundTasks) -> dict[str, Any]:
    reserved = await paidup.reserve(user, 3 * body.seconds, key=f"video-{body.id}", expires_in_s=3600)
    background.add_task(render, user, body)
    return {"video": body.id, "balance": reserved.balance}


async def render(user: str, video: Video) -> None:
    try:
        cost = 2 * video.seconds  # render it here, and count
    except Exception:
        await paidup.release(user, key=f"video-{video.id}")
        raise
    await paidup.commit(user, cost, key=f"video-{video.id}", reason="Video")


@app.get("/app/export")
async def export(user: User) -> dict[str, str]:
    if "pro" not in (await paidup.account(user)).running_plans:
        raise HTTPException(403, "The export is part of Pro.")
    return {"export": "..."}


@app.exception_handler(InsufficientCreditsError)
async def not_enough_credits(request: Request, error: InsufficientCreditsError) -> JSONResponse:
    payment = error.activating  # a payment may be on its way
    activating = payment and {"invoice": payment.invoice, "ticket": payment.ticket}
    return JSONResponse({"needed": error.needed, "balance": error.balance, "activating": activating}, 402)


@app.exception_handler(APIStatusError)
async def refused(request: Request, error: APIStatusError) -> JSONResponse:
    return JSONResponse({"problem": error.problem, "detail": error.detail}, error.status)


@app.exception_handler(APIConnectionError)
async def no_answer(request: Request, error: APIConnectionError) -> JSONResponse:
    return JSONResponse({"detail": "Please try again."}, 503, {"Retry-After": "2"})  # with the same id
