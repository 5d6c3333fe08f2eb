"""Ollama's dialect: `POST /api/generate` and `/api/chat`, and what its clients ask of a model that is always loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from serve.protocols import LINES, Body, Exchange, Model, Stream, request_from_prompt
from serve.protocols.messages import NO_TOOLS, read_messages, request_from_messages
from serve.requests import BadRequest, Completion, CompletionRequest, over, read_flag, read_text, refuse
from toolchain.contracts.chat.format import Message

API = "0.12.0"
"""The version of Ollama whose API this is: its clients ask for it to learn what they may send."""
REFUSED = {
    "template": "the model's own template is used",
    "context": "earlier tokens are not taken",
    "images": "only text is read",
    "format": "text is not held to a format",
    "think": "the model does not think first",
    "logprobs": "probabilities are not given",
    "tools": NO_TOOLS,
}
REFUSED_OPTIONS = {
    "presence_penalty": "use repeat_penalty",
    "frequency_penalty": "use repeat_penalty",
    "mirostat": "mirostat is not had; use top_p and top_k",
}
FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}
Say = Callable[[str], dict[str, Any]]
NEVER = "9999-12-31T00:00:00Z"


async def generate(body: Body, model: Model) -> Exchange | dict[str, Any]:
    """`prompt` and `suffix` around the cursor, or one prompt with FIM tokens in it. It streams unless told not to.

    A prompt is continued as it is, unless there is a `system` text: then both are messages of a chat.
    """
    refuse(body, REFUSED)
    raw = read_flag(body, "raw")
    system = read_text(body, "system") if body.get("system") is not None else ""
    options, field = _options(body)
    wanted = _wanted(body, options, field, model)
    if system and (raw or wanted.suffix or not model.chat):
        raise BadRequest("system", "it is for a model that chats, without raw and suffix; leave it out")
    if not wanted.prefix and not wanted.suffix:
        return _loaded(body, model, _response)
    if system:
        messages = (Message("system", system), Message("user", wanted.prefix))
        wanted = await request_from_messages(messages, options, field, model)
    return _exchange(body, model, wanted, _response)


async def chat(body: Body, model: Model) -> Exchange | dict[str, Any]:
    """`messages`, answered by the assistant's next one. It streams unless told not to."""
    refuse(body, REFUSED)
    messages = read_messages(body)
    options, field = _options(body)
    if not messages and model.chat:
        return _loaded(body, model, _message)
    wanted = await request_from_messages(messages, options, field, model)
    return _exchange(body, model, wanted, _message)


def tags(served: Sequence[Model]) -> dict[str, Any]:
    """All that are served."""
    return {"models": [{**_card(model), "modified_at": model.made} for model in served]}


def running(served: Sequence[Model]) -> dict[str, Any]:
    """The same, as what is loaded."""
    loaded: dict[str, Any] = {"expires_at": NEVER, "size_vram": 0}
    return {"models": [{**_card(model), **loaded, "context_length": model.context_size} for model in served]}


def version(model: Model) -> dict[str, Any]:
    return {"version": API}


def show(body: Body, model: Model) -> dict[str, Any]:
    """What the model is; clients look for `.Suffix` in its template to learn that it fills in the middle."""
    _named(body)
    spec, sampling = model.spec, model.defaults.sampling
    around = f"{spec.prefix}{{{{ .Prompt }}}}{spec.suffix}{{{{ .Suffix }}}}{spec.middle}"
    template = (
        f"{{{{- if .Suffix }}}}{around}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}" if spec.fills else "{{ .Prompt }}"
    )
    return {
        "modelfile": f"FROM {model.name}\n",
        "parameters": f"temperature {sampling.temperature:g}\ntop_p {sampling.top_p:g}",
        "template": template,
        "details": _details(model),
        "model_info": {
            "general.architecture": model.family,
            "general.basename": model.name,
            f"{model.family}.context_length": model.context_size,
        },
        "capabilities": ["completion", *(["insert"] if spec.fills else []), *(["chat"] if model.chat else [])],
        "modified_at": model.made,
    }


def _response(text: str) -> dict[str, Any]:
    return {"response": text}


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _loaded(body: Body, model: Model, say: Say) -> dict[str, Any]:
    """Without any text Ollama loads the model, which is done here, so that is answered at once."""
    read_flag(body, "stream")
    name = _named(body) or model.name
    return {"model": name, "created_at": _now(), **say(""), "done": True, "done_reason": "load"}


def _exchange(body: Body, model: Model, wanted: CompletionRequest, say: Say) -> Exchange:
    name = _named(body) or model.name

    def last(completion: Completion, text: str) -> dict[str, Any]:
        return {"model": name, "created_at": _now(), **say(text), **_end(completion)}

    def events(piece: str | Completion) -> Iterable[object]:
        if isinstance(piece, Completion):
            yield last(piece, "")
        else:
            yield {"model": name, "created_at": _now(), **say(piece), "done": False}

    stream = Stream(LINES, events) if read_flag(body, "stream", default=True) else None
    return Exchange(wanted, lambda completion: last(completion, completion.text), stream)


def _options(body: Body) -> tuple[dict[str, Any], str]:
    """The options by the names that all dialects share, and the one that limits the tokens."""
    given = body.get("options")
    if given is not None and not isinstance(given, dict):
        raise BadRequest("options", "an object is needed")
    # llm-vscode's users leave Hugging Face's parameters in place when they switch to this dialect.
    options = over(given or {}, body.get("parameters"))
    refuse(options, REFUSED_OPTIONS)
    if options.get("repeat_penalty") is not None:
        options["repetition_penalty"] = options.pop("repeat_penalty")
    return options, "max_new_tokens" if options.get("num_predict") is None else "num_predict"


def _wanted(body: Body, options: dict[str, Any], field: str, model: Model) -> CompletionRequest:
    suffix = read_text(body, "suffix") if body.get("suffix") is not None else ""
    prompt = "" if body.get("prompt") is None else body["prompt"]
    return request_from_prompt({"prompt": prompt}, "prompt", options, field, model, suffix)


def _named(body: Body) -> str:
    """The client's name for the model, whatever it is; older clients send it as `name`."""
    for field in ("model", "name"):
        if body.get(field) is not None:
            return read_text(body, field)
    return ""


def _end(completion: Completion) -> dict[str, Any]:
    said = completion.statistics
    return {
        "done": True,
        "done_reason": FINISH[completion.finish],
        "total_duration": _nanoseconds(said.seconds),
        "load_duration": 0,
        "prompt_eval_count": completion.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(said.first_token_seconds),
        "eval_count": said.generated,
        "eval_duration": _nanoseconds(said.seconds - said.first_token_seconds),
    }


def _card(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "mlc",
        "family": model.family,
        "families": [model.family],
        "parameter_size": "",
        "quantization_level": model.scheme,
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
