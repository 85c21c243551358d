"""Paidup inside a Starlette application whose session names the customer.

uvicorn --app-dir docs/examples embedded_starlette:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from paidup.client import InsufficientCreditsError
from paidup.errors import NotAuthenticated
from paidup.mounting import Customer, InProcess, create_app, running
from paidup.settings import load_settings

settings = load_settings()


async def session_customer(request: Request) -> Customer:
    if "user" not in request.session:
        raise NotAuthenticated("Please sign in.")
    return Customer(request.session["user"])


paidup = create_app(settings, authenticate=session_customer)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with running(paidup) as app.state.credits:
        yield


async def sign_in(request: Request) -> JSONResponse:
    request.session["user"] = request.path_params["user"]  # check a password here
    return JSONResponse({"signed_in": request.session["user"]})


async def make_report(request: Request) -> JSONResponse:
    user = (await session_customer(request)).external_id
    credits: InProcess = request.app.state.credits
    try:
        spent = await credits.spend(user, 5, key=f"report-{request.path_params['number']}")
    except InsufficientCreditsError as error:
        activating = error.activating  # a payment may be in progress
        waiting_for = {"invoice": activating.invoice, "ticket": activating.ticket} if activating else None
        return JSONResponse({"needed": error.needed, "activating": waiting_for}, 402)
    return JSONResponse({"report": "...", "balance": spent.balance})


app = Starlette(
    routes=[
        Route("/sign-in/{user}", sign_in, methods=["POST"]),
        Route("/reports/{number:int}", make_report, methods=["POST"]),
        Mount("/billing", paidup),
    ],
    middleware=[Middleware(SessionMiddleware, secret_key=settings.secret_key)],
    lifespan=lifespan,
)
