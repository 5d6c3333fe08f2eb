"""Editors' plugins of which no package can be run: what each sends, and what it reads of the reply.

Restated from the sources of llama.vim (January 2026), llama.vscode 0.0.63, Continue 1.3.40, minuet-ai 0.10 and Zed
(mid-2026). What they would show their user as an error is raised as Unreadable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

STARCODER = "<fim_prefix>{}<fim_suffix>{}<fim_middle>"
QWEN = "<|fim_prefix|>{}<|fim_suffix|>{}<|fim_middle|>"
TIMES = ("n", "ms", "per_token_ms", "per_second")
TIMINGS = [f"timings/{part}_{name}" for part in ("prompt", "predicted") for name in TIMES]


class Unreadable(Exception):
    """The editor shows this, or nothing at all."""


@dataclass(frozen=True)
class Editor:
    """`body` is what is sent to `path` for the text before and after the cursor; `read` gives the completion."""

    path: str
    body: Callable[[str, str], dict[str, Any]]
    read: Callable[[httpx.Response], str]
    agent: str = "curl/8.10.1"

    def ask(self, client: httpx.Client, prefix: str, suffix: str) -> str:
        headers = {"User-Agent": self.agent, "Content-Type": "application/json"}
        content = json.dumps(self.body(prefix, suffix))
        return self.read(client.post(self.path, content=content, headers=headers))


def _of_line(prefix: str, suffix: str) -> dict[str, Any]:
    """llama.cpp's: the lines before the cursor's, the cursor's line up to the cursor, and the rest."""
    lines, _, line = prefix.rpartition("\n")
    return {
        "id_slot": 0,
        "input_prefix": lines + "\n",
        "input_suffix": suffix,
        "input_extra": [{"text": "x = 1\n", "time": [1, 2], "filename": "x.py"}],
        "prompt": line if line.strip() else "",
        "n_predict": 128,
        "top_k": 40,
        "top_p": 0.99,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1000,
    }


def _vim_body(prefix: str, suffix: str) -> dict[str, Any]:
    fields = ["content", *TIMINGS, "truncated", "tokens_cached"]
    return _of_line(prefix, suffix) | {"stop": [], "n_indent": 4, "model": "", "response_fields": fields}


def _vim_read(reply: httpx.Response) -> str:
    """Vim gives the plugin a line at a time, and it looks for the key before it decodes."""
    (line,) = reply.text.split("\n")
    if not re.match(r"\s*\{", line) or not re.search(r'"content"\s*:"', line):
        raise Unreadable("nothing is shown")
    said = json.loads(line)
    assert all(isinstance(said[name], int | float) for name in TIMINGS)
    return str(said["content"])


def _vscode_body(prefix: str, suffix: str) -> dict[str, Any]:
    return _of_line(prefix, suffix) | {"n_cmpl": 3, "n_indent": 4}


def _vscode_read(reply: httpx.Response) -> str:
    """An object or a list of them; the status bar reads timings and the context's size."""
    said = reply.json()
    if not reply.is_success:
        raise Unreadable(said["error"]["message"])
    first = said if "content" in said else said[0]
    for name in ("prompt_ms", "predicted_ms", "prompt_per_second", "predicted_per_second"):
        round(first["timings"][name], 2)
    assert first["generation_settings"]["n_ctx"] > 0
    assert first["tokens_cached"] >= 0
    return str(first["content"])


def _continue_events(reply: httpx.Response) -> Iterator[Any]:
    if reply.status_code != 200:
        raise Unreadable(reply.text)
    for line in reply.text.split("\n"):
        if line.startswith(("data:[DONE]", "data: [DONE]")):
            return
        if line.startswith("data:"):
            event = json.loads(line.removeprefix("data:"))
            if event.get("error"):
                raise Unreadable(event["error"]["message"])
            yield event


def _continue_llamacpp_body(prefix: str, suffix: str) -> dict[str, Any]:
    prompt = STARCODER.format(prefix, suffix)
    stop = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<|endoftext|>", "/src/", "```"]
    return {"model": "fimble", "prompt": prompt, "stream": True, "n_predict": 256, "stop": stop, "temperature": 0.01}


def _continue_llamacpp_read(reply: httpx.Response) -> str:
    return "".join(event["content"] for event in _continue_events(reply) if event.get("content"))


def _continue_openai_body(prefix: str, suffix: str) -> dict[str, Any]:
    prompt = QWEN.format(prefix, suffix)
    return {"model": "qwen2.5-coder", "prompt": prompt, "stream": True, "max_tokens": 256, "temperature": 0.01}


def _continue_openai_read(reply: httpx.Response) -> str:
    events = _continue_events(reply)
    return "".join(event["choices"][0]["text"] for event in events if event["choices"][0]["text"])


def _continue_ollama_body(prefix: str, suffix: str) -> dict[str, Any]:
    options = {"temperature": 0.01, "num_predict": 256, "stop": ["/src/", "```"], "num_ctx": 32768}
    return {
        "model": "fimble",
        "prompt": prefix,
        "suffix": suffix,
        "options": options,
        "keep_alive": 1800,
        "stream": True,
    }


def _continue_ollama_read(reply: httpx.Response) -> str:
    """What follows the last line's end is dropped."""
    if reply.status_code != 200:
        raise Unreadable(reply.text)
    text = ""
    for line in filter(None, reply.text.split("\n")[:-1]):
        piece = json.loads(line)
        if "response" not in piece:
            raise Unreadable(piece["error"])
        text += piece["response"]
    return text


def _minuet_body(prefix: str, suffix: str) -> dict[str, Any]:
    return {"model": "PLACEHOLDER", "stream": True, "max_tokens": 56, "top_p": 0.9, "prompt": prefix, "suffix": suffix}


def _minuet_read(reply: httpx.Response) -> str:
    """Lines that are no events are passed over; without any text, a line with `error` is shown."""
    text = ""
    for line in reply.text.split("\n"):
        try:
            text += json.loads(line.removeprefix("data:"))["choices"][0]["text"]
        except (ValueError, LookupError):
            continue
    if not text:
        raise Unreadable(reply.text if "error" in reply.text else "nothing is shown")
    return text


def _zed_openai_body(prefix: str, suffix: str) -> dict[str, Any]:
    stop = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
    return {"model": "starcoder", "prompt": STARCODER.format(prefix, suffix), "max_tokens": 64, "stop": stop}


def _zed_openai_read(reply: httpx.Response) -> str:
    """Every one of these fields must be there."""
    if not reply.is_success:
        raise Unreadable(f"custom server error: {reply.status_code} - {reply.text}")
    said = reply.json()
    assert all(isinstance(said[name], str) for name in ("id", "object", "model"))
    assert isinstance(said["created"], int)
    usage = said["usage"]
    assert all(isinstance(usage[name], int) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    assert isinstance(said["choices"][0]["finish_reason"], str | None)
    return str(said["choices"][0]["text"])


def _zed_ollama_body(prefix: str, suffix: str) -> dict[str, Any]:
    options = {"num_predict": 64, "temperature": 0.2, "stop": ["<|endoftext|>", "<fim_prefix>"]}
    prompt = STARCODER.format(prefix, suffix)
    return {"model": "starcoder", "prompt": prompt, "raw": True, "stream": False, "options": options}


def _zed_ollama_read(reply: httpx.Response) -> str:
    if not reply.is_success:
        raise Unreadable(f"Ollama API error: {reply.status_code} - {reply.text}")
    said = reply.json()
    assert isinstance(said["created_at"], str)
    return str(said["response"])


EDITORS = {
    "llama.vim": Editor("/infill", _vim_body, _vim_read),
    "llama.vscode": Editor("/infill", _vscode_body, _vscode_read, "axios/1.8.4"),
    "Continue, llama.cpp": Editor("/completion", _continue_llamacpp_body, _continue_llamacpp_read, "node-fetch"),
    "Continue, OpenAI": Editor("/v1/completions", _continue_openai_body, _continue_openai_read, "node-fetch"),
    "Continue, Ollama": Editor("/api/generate", _continue_ollama_body, _continue_ollama_read, "node-fetch"),
    "minuet": Editor("/v1/completions", _minuet_body, _minuet_read),
    "Zed, OpenAI": Editor("/v1/completions", _zed_openai_body, _zed_openai_read, "Zed/0.200.0"),
    "Zed, Ollama": Editor("/api/generate", _zed_ollama_body, _zed_ollama_read, "Zed/0.200.0"),
}
