"""OpenAI's completions dialect: `POST /v1/completions`, with `suffix` and streaming, and `GET /v1/models`."""

from __future__ import annotations

import time
import uuid
from typing import Any

from serve.protocols import EVENTS_TO_DONE, Body, Exchange, Model, Stream, request_from_prompt
from serve.requests import BadRequest, Completion, clean, over, read_flag, read_text, refuse_more_than_one

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}


def complete(body: Body, model: Model) -> Exchange:
    """`prompt` and `suffix` around the cursor, or one prompt with FIM tokens in it."""
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        if len(prompt) != 1:
            raise BadRequest("prompt", "one prompt at a time is taken")
        body = {**body, "prompt": prompt[0]}
    if body.get("model") is not None:
        read_text(body, "model")
    # llm-vscode's users leave Hugging Face's parameters in place when they switch to this dialect.
    options = over(body, body.get("parameters"))
    refuse_more_than_one(options, "n", "best_of")
    if read_flag(options, "echo"):
        raise BadRequest("echo", "the prompt is not given back; leave it out")
    if options.get("logprobs") not in (None, 0):
        raise BadRequest("logprobs", "probabilities are not given; leave it out")
    field = "max_tokens" if options.get("max_tokens") is not None else "max_new_tokens"
    suffix = read_text(body, "suffix") if body.get("suffix") is not None else ""
    wanted = request_from_prompt(body, "prompt", options, field, model, suffix)
    head = _head(body, model.name)
    stream = Stream(EVENTS_TO_DONE, lambda piece: [_piece(head, piece)]) if read_flag(body, "stream") else None
    return Exchange(wanted, lambda completion: _whole(head, completion), stream)


def models(model: Model) -> dict[str, Any]:
    """The one model."""
    return {"object": "list", "data": [{"id": model.name, "object": "model", "created": 0, "owned_by": "fimble"}]}


def _head(body: Body, model: str) -> dict[str, Any]:
    """What a reply and every event of one stream have in common; the client's name for the model is kept."""
    named = body.get("model")
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": clean(named) if isinstance(named, str) else model,
    }


def _whole(head: Body, completion: Completion) -> dict[str, Any]:
    generated = completion.statistics.generated
    choice = {"index": 0, "text": completion.text, "logprobs": None, "finish_reason": FINISH[completion.finish]}
    return {
        **head,
        "choices": [choice],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": completion.prompt_tokens + generated,
        },
    }


def _piece(head: Body, piece: str | Completion) -> dict[str, Any]:
    """One event of a stream: a piece of text, or the end."""
    text, finish = ("", FINISH[piece.finish]) if isinstance(piece, Completion) else (piece, None)
    return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]}
