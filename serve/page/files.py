"""The page's files, with headers that keep the browser from reaching, running or storing anything else."""

from __future__ import annotations

from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


async def index(request: Request) -> Response:
    """The page, for whoever asks for HTML; other clients of this path post to it."""
    if "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(405, headers={"Allow": "POST"})
    return _reply("index.html")


async def file(request: Request) -> Response:
    """One of the files that the page is made of."""
    name = request.path_params["name"]
    if name not in TYPES:
        raise HTTPException(404)
    return _reply(name)


def _reply(name: str) -> Response:
    content = (files("serve.page") / "static" / name).read_bytes()
    return Response(content, media_type=TYPES[name], headers={**HEADERS, "Vary": "Accept"})
