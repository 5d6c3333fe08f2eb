"""The editors' dialects, one file each: `parse` a body, `render` a completion. They share the shape of a failure.

llm-ls ignores the HTTP status and wants a body that it can parse, so an error's body is part of the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve import prompts
from serve.requests import CompletionRequest, read_max_tokens, read_sampling, read_stop, read_text
from toolchain.contracts.fim import FimSpec


def request_from_prompt(
    body: Mapping[str, Any],
    prompt_field: str,
    options: Mapping[str, Any],
    tokens_field: str,
    defaults: CompletionRequest,
    spec: FimSpec,
    suffix: str = "",
) -> CompletionRequest:
    """A request whose prompt ends at the cursor, or without a suffix may be a FIM prompt, which is taken apart."""
    prefix = read_text(body, prompt_field)
    if not suffix:
        prefix, suffix = prompts.take_apart(prefix, spec) or (prefix, "")
    return CompletionRequest(
        prefix=prefix,
        suffix=suffix,
        max_tokens=read_max_tokens(options, tokens_field, defaults.max_tokens),
        sampling=read_sampling(options, defaults.sampling),
        stop=read_stop(options, "stop"),
    )


def error_body(path: str, status: int, message: str, field: str, kind: str) -> dict[str, Any]:
    """`error` as the clients of that path have it, a text or OpenAI's object; `detail` for OpenAI's as llm-ls reads it.

    There `loc` is one text, not the list that FastAPI writes: with a list, llm-ls shows a parse error instead.
    """
    detail = [{"loc": field, "msg": message, "type": kind}]
    if path.startswith("/v1/"):
        blame = "invalid_request_error" if status < 500 else "server_error"
        return {"error": {"message": message, "type": blame, "param": field, "code": kind}, "detail": detail}
    return {"error": message, "error_type": kind, "detail": detail}
