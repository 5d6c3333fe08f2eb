"""Failures as replies: each with a body that editors can parse, and none that shows the inside of the server."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serve.backends import BackendError
from serve.protocols import error_body
from serve.requests import BadRequest, Refused
from toolchain.contracts.errors import FimbleError

CLOSE = {"Connection": "close"}


def refusal(request: Request, error: Exception) -> Refused:
    """What the client is told of `error`."""
    match error:
        case Refused():
            return error
        case BadRequest():
            return Refused(422, str(error), error.field, "validation")
        case HTTPException():
            asked, headers = f"{request.method} {request.url.path}", error.headers or {}
            if error.status_code == 405:
                message = f"{asked} is not answered; use {headers.get('Allow')}"
                return Refused(405, message, "path", "method_not_allowed", headers)
            message = f"{asked}: {error.detail}; /openapi.json lists what is answered"
            return Refused(error.status_code, message, "path", "not_found", headers)
        case BackendError():
            return Refused(502, str(error), "model", "generation")
        case FimbleError():
            return Refused(500, str(error), "model", "generation")
        case _:
            # The server's log has the rest. It closes the connection after such an error, so the client is told.
            return Refused(500, f"the server failed ({type(error).__name__})", "server", "internal", CLOSE)


def reply_to(request: Request, error: Exception) -> Response:
    """The reply to a request that ended in `error`; the status 499 is for the log, since nobody is there to read it."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    refused = refusal(request, error)
    return JSONResponse(body_of(request, refused), status_code=refused.status, headers=refused.headers)


def body_of(request: Request, refused: Refused) -> dict[str, Any]:
    """The body of a refusal, which is also the event that ends a stream."""
    agent = request.headers.get("user-agent", "")
    return error_body(request.url.path, agent, refused.status, str(refused), refused.field, refused.kind)
