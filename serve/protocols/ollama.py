"""Ollama's dialect: `POST /api/generate`, and what its clients ask of the one model that is always loaded."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from serve.protocols import LINES, Body, Exchange, Model, Stream, request_from_prompt
from serve.requests import BadRequest, Completion, CompletionRequest, over, read_flag, read_text, refuse

API = "0.12.0"
"""The version of Ollama whose API this is: its clients ask for it to learn what they may send."""
REFUSED = {
    "system": "no system prompt is read",
    "template": "the model's own prompt is used",
    "context": "earlier tokens are not taken",
    "images": "only text is read",
    "format": "text is not held to a format",
    "think": "the model does not think first",
    "logprobs": "probabilities are not given",
}
REFUSED_OPTIONS = {
    "presence_penalty": "use repeat_penalty",
    "frequency_penalty": "use repeat_penalty",
    "mirostat": "mirostat is not had; use top_p and top_k",
}
FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}
NEVER = "9999-12-31T00:00:00Z"


def generate(body: Body, model: Model) -> Exchange | dict[str, Any]:
    """`prompt` and `suffix` around the cursor, or one prompt with FIM tokens in it. It streams unless told not to.

    Without any text Ollama loads the model, which is done here, so that is answered at once.
    """
    head = {"model": _named(body) or model.name}
    refuse(body, REFUSED)
    read_flag(body, "raw")  # a prompt is never put into a template
    streams = read_flag(body, "stream", default=True)
    wanted = _wanted(body, model)
    if not wanted.prefix and not wanted.suffix:
        return {**head, "created_at": _now(), "response": "", "done": True, "done_reason": "load"}

    def last(completion: Completion, text: str) -> dict[str, Any]:
        return {**head, "created_at": _now(), "response": text, **_end(completion)}

    def events(piece: str | Completion) -> Iterable[object]:
        if isinstance(piece, Completion):
            yield last(piece, "")
        else:
            yield {**head, "created_at": _now(), "response": piece, "done": False}

    stream = Stream(LINES, events) if streams else None
    return Exchange(wanted, lambda completion: last(completion, completion.text), stream)


def chat(body: Body, model: Model) -> dict[str, Any]:
    """No bundle has a chat template yet."""
    raise BadRequest("messages", f"{model.name} completes text and does not chat; use /api/generate")


def tags(model: Model) -> dict[str, Any]:
    """The one model."""
    return {"models": [{**_card(model), "modified_at": model.made}]}


def running(model: Model) -> dict[str, Any]:
    """The same, as what is loaded."""
    card = {**_card(model), "expires_at": NEVER, "size_vram": 0, "context_length": model.context_size}
    return {"models": [card]}


def version(model: Model) -> dict[str, Any]:
    return {"version": API}


def show(body: Body, model: Model) -> dict[str, Any]:
    """What the model is; clients look for `.Suffix` in its template to learn that it fills in the middle."""
    _named(body)
    spec, sampling = model.spec, model.defaults.sampling
    template = f"{spec.prefix}{{{{ .Prompt }}}}{spec.suffix}{{{{ .Suffix }}}}{spec.middle}"
    return {
        "modelfile": f"FROM {model.name}\n",
        "parameters": f"temperature {sampling.temperature:g}\ntop_p {sampling.top_p:g}",
        "template": f"{{{{- if .Suffix }}}}{template}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}",
        "details": _details(model),
        "model_info": {
            "general.architecture": model.family,
            "general.basename": model.name,
            f"{model.family}.context_length": model.context_size,
        },
        "capabilities": ["completion", "insert"],
        "modified_at": model.made,
    }


def _wanted(body: Body, model: Model) -> CompletionRequest:
    given = body.get("options")
    if given is not None and not isinstance(given, dict):
        raise BadRequest("options", "an object is needed")
    # llm-vscode's users leave Hugging Face's parameters in place when they switch to this dialect.
    options = over(given or {}, body.get("parameters"))
    refuse(options, REFUSED_OPTIONS)
    if options.get("repeat_penalty") is not None:
        options["repetition_penalty"] = options.pop("repeat_penalty")
    field = "max_new_tokens" if options.get("num_predict") is None else "num_predict"
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
