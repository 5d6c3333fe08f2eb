"""Tabby's dialect: `POST /v1/completions` with `segments`, `/v1/health`, `/v1/events` and `/v1beta/server_setting`.

The path of the first is OpenAI's too; `segments` tells the two apart.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping
from typing import Any

from serve.protocols import Body, Exchange, Model
from serve.requests import BadRequest, CompletionRequest, read_list, read_number, read_sampling, read_text
from toolchain.contracts.manifest import tool_version

API = "0.32.0"
"""The version of Tabby whose API this is: its agent asks for the settings of no server older than 0.9."""
EVENTS = ("view", "select", "dismiss")
SNIPPETS = ("declarations", "relevant_snippets_from_changed_files", "relevant_snippets_from_recently_opened_files")


def complete(body: Body, model: Model) -> Exchange:
    """The text around the cursor in `segments`, with snippets of other files beside it."""
    segments = body.get("segments")
    if not isinstance(segments, Mapping):
        raise BadRequest("segments", "an object is needed")
    if body.get("mode") not in (None, "standard"):
        raise BadRequest("mode", "only the standard mode is had; leave it out")
    for values, names in ((body, ("language", "user")), (segments, ("filepath", "git_url", "clipboard"))):
        for name in names:
            _text_or_nothing(values, name)
    wanted = CompletionRequest(
        prefix=read_text(segments, "prefix"),
        suffix=_text_or_nothing(segments, "suffix"),
        max_tokens=model.defaults.max_tokens,
        sampling=read_sampling({name: body.get(name) for name in ("temperature", "seed")}, model.defaults.sampling),
        raw=False,
        extra=tuple(pair for name in SNIPPETS for pair in _snippets(segments, name)),
    )
    reply = {"id": f"cmpl-{uuid.uuid4().hex}"}
    return Exchange(wanted, lambda completion: {**reply, "choices": [{"index": 0, "text": completion.text}]})


def event(body: Body) -> str:
    """What an editor says that was done with a completion: one of `EVENTS`. Raises BadRequest for anything else."""
    kind = read_text(body, "type")
    if kind not in EVENTS:
        raise BadRequest("type", f"one of {', '.join(EVENTS)} is needed")
    read_text(body, "completion_id")
    if body.get("choice_index") is None:
        raise BadRequest("choice_index", "a number is needed")
    for name in ("choice_index", "elapsed"):
        read_number(body, name, 0, 0, 1e15)
    for name in ("view_id", "select_kind"):
        _text_or_nothing(body, name)
    return kind


def health(model: Model) -> dict[str, Any]:
    """What the agent asks before all else. `status` is for clients that expect another server's answer here."""
    return {
        "status": "ok",
        "model": model.name,
        "device": model.target,
        "arch": platform.machine(),
        "cpu_info": "",
        "cpu_count": os.cpu_count() or 1,
        "cuda_devices": [],
        "version": {
            "build_date": "",
            "build_timestamp": "",
            "git_sha": "",
            "git_describe": f"v{API}-fimble-{tool_version()}",
        },
    }


def server_setting(model: Model) -> dict[str, Any]:
    """Nothing is to leave the user's machine."""
    return {"disable_client_side_telemetry": True}


def _snippets(segments: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    found = []
    for snippet in read_list(segments, name):
        if not isinstance(snippet, Mapping):
            raise BadRequest(name, "a list of objects with `filepath` and `body` is needed")
        found.append((_text_or_nothing(snippet, "filepath"), read_text(snippet, "body")))
    return found


def _text_or_nothing(values: Mapping[str, Any], name: str) -> str:
    return read_text(values, name) if values.get(name) is not None else ""
