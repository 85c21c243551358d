"""The browser client under /sdk, as ES modules: /sdk/latest/paidup.js, or with the version in its place.

Paths with the version may be cached for a year; /sdk.json has their Subresource Integrity hashes. The files
are public, so any origin may load them: https://www.w3.org/TR/sri-2/ needs CORS to check a hash.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup import __version__
from paidup.web.http import json_response

NAMES = ("paidup.js", "element/activation.js", "element/look.js", "element/words.js")
"""The React hook is not one of them: it imports `react`, which only a bundler finds."""
_PUBLIC = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}
_FOR_A_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Module:
    """One file of the client. `integrity` is the value of the HTML attribute."""

    content: bytes
    integrity: str


@cache
def modules() -> dict[str, Module]:
    """The files by name; none where the package was installed without them."""
    package = find_spec("paidup_demo")  # found, not imported
    folders = [
        Path(place) / "sdk" for place in (package.submodule_search_locations if package else None) or ()
    ]
    return {
        name: Module(content := (folder / name).read_bytes(), _integrity(content))
        for folder in folders
        for name in NAMES
        if (folder / name).is_file()
    }


def _integrity(content: bytes) -> str:
    return f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"


async def index(request: Request) -> Response:
    """GET /sdk.json: the version, and each file's versioned path and integrity hash."""
    root = request.scope.get("root_path", "")
    files = {
        name: {"path": f"{root}/sdk/{__version__}/{name}", "integrity": module.integrity}
        for name, module in modules().items()
    }
    response = json_response({"version": __version__, "files": files})
    response.headers.update(_PUBLIC)
    return response


async def file(request: Request) -> Response:
    """GET /sdk/{version}/...: a file of this version, or of `latest`."""
    version = request.path_params["version"]
    name = request.path_params.get("name")
    place = f"element/{name}" if name else "paidup.js"
    module = modules().get(place) if version in ("latest", __version__) else None
    if module is None:
        raise HTTPException(
            404, f"There is no such file; this server has version {__version__} of the client."
        )
    tag = f'"{module.integrity}"'
    headers = {**_PUBLIC, "Cache-Control": "no-cache" if version == "latest" else _FOR_A_YEAR, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(module.content, headers=headers, media_type="text/javascript")


ROUTES = [
    Route("/sdk.json", index, methods=["GET"]),
    Route("/sdk/{version}/paidup.js", file, methods=["GET"]),
    Route("/sdk/{version}/element/{name}", file, methods=["GET"]),
]
