"""What the server takes and gives, as OpenAPI 3.1 at `/openapi.json`: one table of its paths.

Shapes are written short: a type, a value that it must be, `[shape]` for a list, a dictionary for an object, and
`(one, other)` for either. A name that ends in `?` may be left out; of a body also null is taken in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from toolchain.contracts.manifest import tool_version

Shape = Any
TYPES: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "array",
    None: "null",
}


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`."""

    low: float
    high: float
    kind: type = float


@dataclass(frozen=True)
class Only:
    """An object with these fields and no others."""

    fields: Mapping[str, Shape]


@dataclass(frozen=True)
class Operation:
    """What is sent, unless it is a GET, and what comes back; `stream` is the type of what comes piece by piece."""

    does: str
    body: Shape = None
    reply: Shape = None
    stream: str | None = None
    media: str = "application/json"
    keyed: bool = True


STOP = (str, [str])
SAMPLING = {
    "temperature?": Within(0, 100),
    "top_p?": Within(0, 1),
    "top_k?": Within(-1, 10**9, int),
    "seed?": Within(-1, 2**64 - 1, int),
    "repetition_penalty?": Within(0.1, 10),
    "stop?": STOP,
}
COUNT = Within(1, 2**31, int)
TGI = {
    "inputs": str,
    "parameters?": {
        **SAMPLING,
        "max_new_tokens?": COUNT,
        "do_sample?": bool,
        "details?": bool,
        "return_full_text?": bool,
    },
}
INFO = {"model_id": str, "model_dtype": str, "max_total_tokens": int}
GENERATED = {"generated_text": str, "details?": dict}
OPENAI = {**SAMPLING, "model?": str, "max_tokens?": COUNT, "stream?": bool}
COMPLETION = {**OPENAI, "prompt": (str, [int]), "suffix?": str, "stream_options?": {"include_usage?": bool}}
TABBY = {
    "segments": {"prefix": str, "suffix?": str, "declarations?": [{"filepath?": str, "body": str}]},
    "language?": str,
    "temperature?": Within(0, 100),
    "seed?": Within(-1, 2**64 - 1, int),
}
USAGE = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}
COMPLETED = {
    "id": str,
    "object": "text_completion",
    "created": int,
    "model": str,
    "choices": [{"index": int, "text": str, "finish_reason": str}],
    "usage": USAGE,
}
TABBY_COMPLETED = Only({"id": str, "choices": [{"index": int, "text": str}]})
ROLE = ("system", "developer", "user", "assistant")
MESSAGES = [{"role": ROLE, "content": (str, [{"type": "text", "text": str}])}]
CHAT = {**OPENAI, "messages": MESSAGES, "max_completion_tokens?": COUNT}
ANSWERED = {
    "id": str,
    "object": "chat.completion",
    "model": str,
    "choices": [{"index": int, "message": {"role": "assistant", "content": str}, "finish_reason": str}],
    "usage": USAGE,
}
LLAMA = {
    **SAMPLING,
    "n_predict?": Within(-2, 2**31, int),
    "stream?": bool,
    "cache_prompt?": bool,
    "n_indent?": Within(0, 10**9),
    "repeat_penalty?": Within(0.1, 10),
    "t_max_prompt_ms?": Within(-1, 10**6),
    "t_max_predict_ms?": Within(-1, 10**6),
    "response_fields?": [str],
}
INFILL = {
    **LLAMA,
    "input_prefix": str,
    "input_suffix": str,
    "prompt?": str,
    "input_extra?": [{"filename?": str, "text": str}],
}
LLAMA_REPLY = {"content?": str, "stop?": bool, "timings?": dict}
OLLAMA_OPTIONS = {**SAMPLING, "num_predict?": Within(-2, 2**31, int), "repeat_penalty?": Within(0.1, 10)}
GENERATE = {
    "model?": str,
    "prompt?": str,
    "suffix?": str,
    "system?": str,
    "raw?": bool,
    "stream?": bool,
    "options?": OLLAMA_OPTIONS,
}
OLLAMA_END = {"model": str, "created_at": str, "done": bool, "done_reason?": str}
OLLAMA_MODELS = {"models": [{"name": str, "model": str, "size": int, "digest": str, "details": dict}]}
CARD = {"id": str, "object": "model", "created": int, "owned_by": str}
HEALTH = {"model": str, "device": str, "arch": str, "cpu_count": int, "version": dict}
ERROR = {"error": (str, dict), "error_type": str, "detail": [{"loc": str, "msg": str, "type": str}]}
SSE, LINES = "text/event-stream", "application/x-ndjson"

OPERATIONS: dict[str, Operation] = {
    "POST /": Operation("Hugging Face's inference", TGI | {"stream?": bool}, [GENERATED], SSE),
    "POST /models/{model}": Operation("the same, whatever the name", TGI | {"stream?": bool}, [GENERATED], SSE),
    "POST /generate": Operation("TGI's completion", TGI, GENERATED),
    "POST /generate_stream": Operation("TGI's completion, streamed", TGI, stream=SSE),
    "GET /info": Operation("what TGI tells of itself", reply=INFO | {"models": [INFO]}),
    "POST /v1/completions": Operation(
        "OpenAI's completion; Tabby's with `segments`", (COMPLETION, TABBY), (COMPLETED, TABBY_COMPLETED), SSE
    ),
    "POST /v1/chat/completions": Operation("OpenAI's chat", CHAT, ANSWERED, SSE),
    "GET /v1/models": Operation("the models", reply={"object": "list", "data": [CARD]}),
    "GET /v1/models/{model}": Operation("one of them", reply=CARD),
    "POST /infill": Operation("llama.cpp's completion around the cursor", INFILL, LLAMA_REPLY, SSE),
    "POST /completion": Operation("llama.cpp's completion", LLAMA | {"prompt": str}, LLAMA_REPLY, SSE),
    "POST /completions": Operation("the same", LLAMA | {"prompt": str}, LLAMA_REPLY, SSE),
    "GET /props": Operation("llama.cpp's settings", reply={"default_generation_settings": dict, "total_slots": int}),
    "POST /api/generate": Operation("Ollama's completion", GENERATE, OLLAMA_END | {"response": str}, LINES),
    "POST /api/chat": Operation(
        "Ollama's chat",
        {"model?": str, "messages?": MESSAGES, "stream?": bool, "options?": OLLAMA_OPTIONS},
        OLLAMA_END | {"message": {"role": "assistant", "content": str}},
        LINES,
    ),
    "POST /api/show": Operation("what the model is", {"model?": str}, {"template": str, "capabilities": [str]}),
    "GET /api/tags": Operation("the models", reply=OLLAMA_MODELS),
    "GET /api/ps": Operation("the models that are loaded", reply=OLLAMA_MODELS),
    "GET /api/version": Operation("the Ollama whose API this is", reply={"version": str}),
    "POST /v1/events": Operation(
        "what a user did with a completion of Tabby's",
        {"type": ("view", "select", "dismiss"), "completion_id": str, "choice_index": Within(0, 10**9, int)},
        dict,
    ),
    "GET /v1/health": Operation("Tabby's state of the server", reply=HEALTH),
    "POST /v1/health": Operation("the same", reply=HEALTH),
    "GET /v1beta/server_setting": Operation("Tabby's settings", reply={"disable_client_side_telemetry": bool}),
    "GET /health": Operation("whether it is up", reply={"status": "ok", "model": str}, keyed=False),
    "GET /metrics": Operation("what was counted, for Prometheus", reply=str, media="text/plain"),
    "GET /status": Operation("the same for the page", reply={"models": [dict], "totals": dict, "recent": list}),
    "HEAD /": Operation("whether it is up", keyed=False),
    "GET /": Operation("the page, for whoever accepts HTML", reply=str, media="text/html", keyed=False),
    "GET /page/{name}": Operation("a part of the page", reply=str, media="*/*", keyed=False),
    "GET /openapi.json": Operation("this description", reply={"openapi": str, "paths": dict}, keyed=False),
}


@cache
def describe() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in OPERATIONS.items():
        method, path = route.split()
        paths.setdefault(path, {})[method.lower()] = _operation(path, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fimble", "version": tool_version()},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(path: str, operation: Operation) -> dict[str, Any]:
    content = {} if operation.reply is None else {operation.media: {"schema": schema(operation.reply)}}
    if operation.stream:
        content[operation.stream] = {}
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    described: dict[str, Any] = {
        "summary": operation.does,
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": {
            "200": {"description": "done", **({"content": content} if content else {})},
            "default": {"description": "why not", "content": {"application/json": {"schema": schema(ERROR)}}},
        },
    }
    if operation.body is not None:
        body = {"application/json": {"schema": schema(operation.body, nullable=True)}}
        described["requestBody"] = {"required": True, "content": body}
    if operation.keyed:
        described["security"] = [{"key": []}, {}]
    return described


def schema(shape: Shape, nullable: bool = False) -> dict[str, Any]:
    """The JSON schema of a shape; with `nullable` what may be left out may be null as well."""
    match shape:
        case Within(low, high, kind):
            return {"type": TYPES[kind], "minimum": low, "maximum": high}
        case Only(fields):
            return {**schema(fields, nullable), "additionalProperties": False}
        case tuple():
            return {"anyOf": [schema(one, nullable) for one in shape]}
        case [item]:
            return {"type": "array", "items": schema(item, nullable)}
        case Mapping():
            named = {name.removesuffix("?"): (name.endswith("?"), value) for name, value in shape.items()}
            return {
                "type": "object",
                "properties": {
                    name: schema((value, None) if optional and nullable else value, nullable)
                    for name, (optional, value) in named.items()
                },
                "required": [name for name, (optional, _) in named.items() if not optional],
            }
        case str():
            return {"const": shape}
    return {"type": TYPES[shape]}
