"""Reading a request's body: one JSON object, not too large, and not too slow to come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from serve.http.failures import CLOSE
from serve.requests import BadRequest, Refused

MOST_BYTES = 2 << 20
BODY_SECONDS = 30


async def read_body(request: Request) -> Mapping[str, Any]:
    """The JSON object in the body. Raises Refused or BadRequest for none, too large or too slow a one."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > MOST_BYTES:
                    raise Refused(
                        413, f"the body is larger than {MOST_BYTES} bytes; send less text", "body", "validation"
                    )
    except TimeoutError:
        raise Refused(
            408, f"the body did not arrive within {BODY_SECONDS} seconds; send it again", "body", "timeout", CLOSE
        ) from None
    try:
        body = json.loads(data)
    except RecursionError:
        raise BadRequest("body", "JSON that is nested less deeply is needed") from None
    except json.JSONDecodeError as error:
        raise BadRequest("body", f"JSON is needed ({error.msg}, character {error.pos})") from None
    except ValueError:  # not UTF-8, or a number of thousands of digits
        raise BadRequest("body", "JSON in UTF-8 with numbers that a program reads is needed") from None
    if not isinstance(body, Mapping):
        raise BadRequest("body", "a JSON object is needed")
    return body
