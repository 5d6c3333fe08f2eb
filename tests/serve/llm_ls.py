"""What llm-ls sends and what it takes for an answer, restated from its `backend.rs` and `main.rs`.

It looks at the body alone, whatever the status, and a body that fits neither shape of its backend is an error message
in the user's editor.
"""

from __future__ import annotations

import json
from typing import Any

BACKENDS = ("huggingface", "tgi", "openai")
ENDINGS = {
    "tgi": "/generate",
    "openai": "/v1/completions",
    "llamacpp": "/v1/completions",
    "llamacpp 0.5.3": "/completions",
    "ollama": "/api/generate",
}
HEADERS = {"User-Agent": "llm-ls/0.5.3; rust/unknown; ide/VSCode"}


class Unparsable(Exception):
    """llm-ls would show a parse error."""


def backends_of(path: str) -> tuple[str, ...]:
    """The backends that read what comes from a path."""
    return ("openai",) if path.startswith("/v1/") else BACKENDS


def url_of(backend: str, url: str, model: str, verbatim: bool) -> str:
    if verbatim:
        return url
    if backend == "huggingface":
        return f"{url}/models/{model}"
    ending = ENDINGS[backend]
    return url if url.endswith(ending) else url.rstrip("/") + ending


def body_of(backend: str, prompt: str, model: str, request_body: dict[str, Any]) -> dict[str, Any]:
    body = dict(request_body)
    if backend == "llamacpp 0.5.3":
        return body | {"prompt": prompt}
    if backend in ("openai", "llamacpp", "ollama"):
        return body | {"prompt": prompt, "model": model, "stream": False}
    body["inputs"] = prompt
    if isinstance(body.get("parameters"), dict):
        body["parameters"] = body["parameters"] | {"return_full_text": False}
    else:
        body["parameters"] = {"parameters": {"return_full_text": False}}
    return body


def read(backend: str, text: str) -> tuple[list[str], str | None]:
    """The completions, or the message of an error."""
    value = json.loads(text)
    if backend in ("openai", "llamacpp"):
        if isinstance(value, dict) and _all(value.get("choices"), text=str):
            return [choice["text"] for choice in value["choices"]], None
        if backend == "llamacpp" and _is(value, error=str):
            return [], value["error"]
        if (
            backend == "openai"
            and isinstance(value, dict)
            and _all(value.get("detail"), loc=(str, int), msg=str, type=str)
        ):
            return [], value["detail"][0]["msg"]
        raise Unparsable(text)
    text_field = {"llamacpp 0.5.3": "content", "ollama": "response"}.get(backend, "generated_text")
    if _is(value, **{text_field: str}):
        return [value[text_field]], None
    if _all(value, generated_text=str) and backend == "huggingface":
        return [one["generated_text"] for one in value], None
    if _is(value, error=str):
        return [], value["error"]
    raise Unparsable(text)


def _is(value: Any, **fields: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in fields.items())


def _all(value: Any, **fields: Any) -> bool:
    return isinstance(value, list) and all(_is(one, **fields) for one in value)
