"""llama.cpp's dialect: `POST /infill`, `/completion` and `/completions`, and `GET /props`.

llama.vim reads the values of a reply by the flat names that it gives in `response_fields`, so those come back flat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from serve.engine.engine import Statistics
from serve.protocols import EVENTS, Body, Exchange, Model, Stream, is_warm_up, request_from_prompt
from serve.requests import (
    BadRequest,
    Completion,
    CompletionRequest,
    over,
    read_flag,
    read_list,
    read_max_tokens,
    read_number,
    read_sampling,
    read_stop,
    read_text,
    refuse,
)
from toolchain.contracts.manifest import tool_version

REFUSED = {
    "grammar": "text is not held to a grammar",
    "json_schema": "text is not held to a schema",
    "n_probs": "probabilities are not given",
    "logit_bias": "single tokens are not made likelier",
    "mirostat": "mirostat is not had; use top_p and top_k",
    "ignore_eos": "generation ends at the end of the text",
    "return_tokens": "token ids are not given",
    "image_data": "only text is read",
    "presence_penalty": "use repeat_penalty",
    "frequency_penalty": "use repeat_penalty",
}
ANY_SEED = 0xFFFFFFFF  # llama.cpp's own default, which means none


def infill(body: Body, model: Model) -> Exchange | dict[str, Any]:
    """The text around the cursor; `prompt` is what was typed after `input_prefix`, and other files come beside it."""
    prefix, suffix = read_text(body, "input_prefix"), read_text(body, "input_suffix")
    typed = read_text(body, "prompt") if body.get("prompt") is not None else ""
    options, extra = _options(body), _extra(body)
    wanted = CompletionRequest(
        prefix=prefix + typed,
        suffix=suffix,
        max_tokens=read_max_tokens(options, "n_predict", model.defaults.max_tokens),
        sampling=read_sampling(options, model.defaults.sampling),
        stop=read_stop(options, "stop"),
        raw=False,
        extra=extra,
    )
    exchange = _exchange(body, model, _bounded(wanted, body))
    seen = extra if model.spec.file_separator else ()
    if is_warm_up(body) and not (prefix or typed or suffix or seen):
        # Reading nothing would only cost the cache what it holds.
        return _last(model, wanted, Completion("", "length", 0, Statistics()), "")
    return exchange


def complete(body: Body, model: Model) -> Exchange:
    """A prompt that is continued, or that has FIM tokens in it."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        body = {**body, "prompt": prompt[0]}
    # llm-vscode's users leave Hugging Face's parameters in place when they switch to this dialect.
    options = _options(over(body, body.get("parameters")))
    field = "max_new_tokens" if options.get("n_predict") is None else "n_predict"
    return _exchange(body, model, _bounded(request_from_prompt(body, "prompt", options, field, model), body))


def props(model: Model) -> dict[str, Any]:
    """What clients look up before they ask: how much context there is."""
    return {
        "default_generation_settings": {"id": 0, "n_ctx": model.context_size, "params": _settings(model.defaults)},
        "total_slots": 1,
        "model_alias": model.name,
        "model_path": str(model.folder),
        "chat_template": model.chat.format.template.source if model.chat else "",
        "modalities": {"vision": False, "audio": False},
        "build_info": f"fimble {tool_version()}",
    }


def _options(body: Body) -> dict[str, Any]:
    """The options by the names that all dialects share. A count of 0 tokens, a warm-up, is seen to elsewhere."""
    refuse(body, REFUSED)
    for name in ("cache_prompt", "stream"):
        read_flag(body, name)
    options = dict(body)
    if options.get("seed") == ANY_SEED:
        options["seed"] = None
    if is_warm_up(body):
        options["n_predict"] = None
    if options.get("repeat_penalty") is not None:
        read_number(options, "repeat_penalty", 1, 0.1, 10)
        options["repetition_penalty"] = options["repeat_penalty"]
    return options


def _bounded(wanted: CompletionRequest, body: Body) -> CompletionRequest:
    """`wanted`, up to where its client wants it: a time, of reading and of writing, or a line indented too little.

    A warm-up takes the time that it needs, since whatever the same client asks next ends it.
    """
    wanted = replace(wanted, least_indentation=int(read_number(body, "n_indent", 0, 0, 1e9)))
    writing = read_number(body, "t_max_predict_ms", 0, -1, 1e9)
    reading = read_number(body, "t_max_prompt_ms", 0, -1, 1e9)
    if is_warm_up(body):
        return replace(wanted, max_tokens=0)
    return replace(wanted, deadline_ms=int(writing + max(reading, 0)) if writing >= 1 else None)


def _extra(body: Body) -> tuple[tuple[str, str], ...]:
    files = []
    for file in read_list(body, "input_extra"):
        if not isinstance(file, Mapping):
            raise BadRequest("input_extra", "a list of objects with `filename` and `text` is needed")
        name = read_text(file, "filename") if file.get("filename") is not None else ""
        files.append((name, read_text(file, "text")))
    return tuple(files)


def _exchange(body: Body, model: Model, wanted: CompletionRequest) -> Exchange:
    fields = read_list(body, "response_fields")
    if not all(isinstance(name, str) for name in fields):
        raise BadRequest("response_fields", "a list of strings is needed")

    def last(completion: Completion, content: str) -> dict[str, Any]:
        reply = _last(model, wanted, completion, content)
        return _picked(reply, fields) if fields else reply

    def events(piece: str | Completion) -> Iterable[object]:
        if isinstance(piece, Completion):
            yield last(piece, "")
        else:
            yield {"index": 0, "content": piece, "tokens": [], "stop": False, "id_slot": 0}

    stream = Stream(EVENTS, events) if read_flag(body, "stream") else None
    return Exchange(wanted, lambda completion: last(completion, completion.text), stream)


def _last(model: Model, wanted: CompletionRequest, completion: Completion, content: str) -> dict[str, Any]:
    said = completion.statistics
    return {
        "index": 0,
        "content": content,
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": model.name,
        "tokens_predicted": said.generated,
        "tokens_evaluated": completion.prompt_tokens,
        "tokens_cached": said.reused,
        "generation_settings": {**_settings(wanted), "n_ctx": model.context_size},
        "has_new_line": "\n" in completion.text,
        "truncated": False,
        "stop_type": _stop_type(completion),
        "stopping_word": "",
        "timings": {
            "cache_n": said.reused,
            **_timings("prompt", said.prefilled, said.first_token_seconds),
            **_timings("predicted", said.generated, said.seconds - said.first_token_seconds),
        },
    }


def _stop_type(completion: Completion) -> str:
    if completion.finish == "stop":
        return "eos" if completion.statistics.ending == "end_token" else "word"
    return "limit"


def _timings(name: str, tokens: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": 1000 * seconds,
        f"{name}_per_token_ms": 1000 * seconds / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / seconds if seconds else 0.0,
    }


def _settings(wanted: CompletionRequest) -> dict[str, Any]:
    sampling = wanted.sampling
    return {
        "n_predict": wanted.max_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repeat_penalty": sampling.repetition_penalty,
        "seed": ANY_SEED if sampling.seed is None else sampling.seed,
        "stop": list(wanted.stop),
    }


def _picked(reply: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """The values at paths such as `timings/prompt_n`, under those names; a path that leads nowhere is left out."""
    picked = {}
    for name in fields:
        value: Any = reply
        for part in name.split("/"):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            picked[name] = value
    return picked
