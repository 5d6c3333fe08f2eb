"""OpenAI's dialect: `POST /v1/completions`, with `suffix`, and `POST /v1/chat/completions`, and `GET /v1/models`.

Any name for the model is taken: clients ask for one that they know, and get the first one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve.protocols import EVENTS_TO_DONE, Body, Exchange, Model, Stream, is_warm_up, request_from_prompt
from serve.protocols.messages import NO_TOOLS, read_messages, request_from_messages
from serve.requests import (
    BadRequest,
    Completion,
    over,
    read_flag,
    read_list,
    read_text,
    refuse,
    refuse_more_than_one,
)
from toolchain.contracts.tokenizer import clean

REFUSED = {
    "logprobs": "probabilities are not given",
    "logit_bias": "single tokens are not made likelier",
    "presence_penalty": "use repetition_penalty",
    "frequency_penalty": "use repetition_penalty",
}
REFUSED_IN_CHAT = REFUSED | {
    "tools": NO_TOOLS,
    "functions": NO_TOOLS,
    "top_logprobs": "probabilities are not given",
    "audio": "only text is written",
    "web_search_options": "nothing is searched",
}
FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}


def complete(body: Body, model: Model) -> Exchange:
    """`prompt` and `suffix` around the cursor, one prompt with FIM tokens in it, or a prompt as token ids."""
    prompt = body.get("prompt")
    ids: tuple[int, ...] = ()
    if isinstance(prompt, list):
        if len(prompt) == 1 and not isinstance(prompt[0], int):
            (prompt,) = prompt
        if isinstance(prompt, list):
            ids, prompt = _ids(prompt, model), ""
        body = {**body, "prompt": prompt}
    if body.get("model") is not None:
        read_text(body, "model")
    # llm-vscode's users leave Hugging Face's parameters in place when they switch to this dialect.
    options = over(body, body.get("parameters"))
    refuse_more_than_one(options, "n", "best_of")
    if read_flag(options, "echo"):
        raise BadRequest("echo", "the prompt is not given back; leave it out")
    refuse(options, REFUSED)
    field = "max_tokens" if options.get("max_tokens") is not None else "max_new_tokens"
    suffix = read_text(body, "suffix") if body.get("suffix") is not None else ""
    wanted = replace(request_from_prompt(body, "prompt", options, field, model, suffix), ids=ids)
    head = _head(body, model, "cmpl", "text_completion")
    counted = _wants_usage(body)
    stream = Stream(EVENTS_TO_DONE, lambda piece: _events(head, piece, counted)) if read_flag(body, "stream") else None
    return Exchange(wanted, lambda completion: _whole(head, completion), stream)


async def chat(body: Body, model: Model) -> Exchange:
    """`messages`, answered by the assistant's next one."""
    if body.get("model") is not None:
        read_text(body, "model")
    refuse_more_than_one(body, "n")
    refuse(body, REFUSED_IN_CHAT)
    _refuse_formats(body)
    fields = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    wanted = await request_from_messages(read_messages(body), body, (*fields, "max_tokens")[0], model)
    if is_warm_up(body):
        wanted = replace(wanted, max_tokens=0)
    counted = _wants_usage(body)
    head = _head(body, model, "chatcmpl", "chat.completion.chunk")
    opening = iter([{"role": "assistant", "content": ""}])

    def events(piece: str | Completion) -> Iterable[object]:
        usage = {"usage": None} if counted else {}
        deltas = [*opening, {} if isinstance(piece, Completion) else {"content": piece}]
        for delta in deltas:
            finish = FINISH[piece.finish] if isinstance(piece, Completion) and not delta else None
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield {**head, "choices": [choice], **usage}
        if counted and isinstance(piece, Completion):
            yield {**head, "choices": [], "usage": _usage(piece)}

    def whole(completion: Completion) -> object:
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": FINISH[completion.finish]}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(completion)}

    return Exchange(wanted, whole, Stream(EVENTS_TO_DONE, events) if read_flag(body, "stream") else None)


def models(served: Sequence[Model]) -> dict[str, Any]:
    """All that are served."""
    return {"object": "list", "data": [model_card(model) for model in served]}


def model_card(model: Model) -> dict[str, Any]:
    """One of them, by whatever name it was asked for."""
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "fimble"}


def _ids(prompt: Sequence[Any], model: Model) -> tuple[int, ...]:
    """A prompt of token ids, checked; several prompts, which OpenAI's API takes in a list too, are refused."""
    if not prompt or not all(isinstance(id, int) and not isinstance(id, bool) for id in prompt):
        raise BadRequest("prompt", "one prompt at a time is taken, as text or as token ids")
    if not all(0 <= id < model.vocabulary for id in prompt):
        raise BadRequest("prompt", f"a token id lies outside the vocabulary of {model.vocabulary}")
    if len(prompt) >= model.context_size:
        raise BadRequest("prompt", f"{len(prompt)} tokens leave no room in a context of {model.context_size}")
    return tuple(prompt)


def _wants_usage(body: Body) -> bool:
    given = body.get("stream_options")
    if given is None:
        return False
    if not isinstance(given, Mapping):
        raise BadRequest("stream_options", "an object is needed")
    return read_flag(given, "include_usage")


def _refuse_formats(body: Body) -> None:
    """Raise BadRequest for an answer that is to be anything but text."""
    form, kinds = body.get("response_format"), read_list(body, "modalities")
    if form is not None and not (isinstance(form, Mapping) and form.get("type") == "text"):
        raise BadRequest("response_format", 'text is not held to a format; leave it out or give {"type": "text"}')
    if any(kind != "text" for kind in kinds):
        raise BadRequest("modalities", "only text is written; leave it out")


def _head(body: Body, model: Model, kind: str, name: str) -> dict[str, Any]:
    """What a reply and every event of one stream have in common; the client's name for the model is kept."""
    named = body.get("model")
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": name,
        "created": int(time.time()),
        "model": clean(named) if isinstance(named, str) else model.name,
        "system_fingerprint": f"fp_{model.digest[:10]}",
    }


def _whole(head: Body, completion: Completion) -> dict[str, Any]:
    return {**head, "choices": [_choice(completion.text, FINISH[completion.finish])], "usage": _usage(completion)}


def _events(head: Body, piece: str | Completion, counted: bool) -> Iterable[object]:
    """A piece of text, or the end; then, where they are asked for, the counts in an event without choices."""
    choice = _choice("", FINISH[piece.finish]) if isinstance(piece, Completion) else _choice(piece, None)
    yield {**head, "choices": [choice], **({"usage": None} if counted else {})}
    if counted and isinstance(piece, Completion):
        yield {**head, "choices": [], "usage": _usage(piece)}


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


def _usage(completion: Completion) -> dict[str, Any]:
    said = completion.statistics
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": said.generated,
        "total_tokens": completion.prompt_tokens + said.generated,
        "prompt_tokens_details": {"cached_tokens": said.reused},
    }
