"""Hugging Face's inference dialect: `POST /` and `POST /models/{model}`, and TGI's `/generate` and `/generate_stream`.

llm-vscode 0.0.38 and llm-ls's `huggingface` backend take an object or a list, jupytercoder only a list, llm-ls's
`tgi` backend only an object. So the first two routes answer with a list and `/generate` with an object.

A stream's events are TGI's, one a piece of text: a piece may be of several tokens, whose ids and probabilities are not
told, so `id` and `logprob` are 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from serve.protocols import EVENTS, Body, Exchange, Model, Stream, request_from_prompt
from serve.requests import (
    MOST_STOPS,
    MOST_TOKENS,
    BadRequest,
    Completion,
    over,
    read_flag,
    read_number,
    read_text,
    refuse,
    refuse_more_than_one,
)
from toolchain.contracts.manifest import tool_version

REFUSED = {
    "adapter_id": "there is one model, its adapter merged in",
    "grammar": "text is not held to a grammar",
    "top_n_tokens": "other tokens are not given",
    "decoder_input_details": "the prompt's tokens are not given",
    "frequency_penalty": "use repetition_penalty",
    "watermark": "text is not marked",
}
OLD_LLM_VSCODE = frozenset({"max_new_tokens", "temperature", "do_sample", "top_p", "stop"})


def infer(body: Body, model: Model) -> Exchange:
    """Hugging Face's: answered by a list, or by TGI's events where `stream` asks for them."""
    exchange = _exchange(body, model, read_flag(body, "stream"))
    return replace(exchange, whole=lambda completion: [exchange.whole(completion)])


def generate(body: Body, model: Model) -> Exchange:
    """TGI's, answered by an object, and never by a stream."""
    if read_flag(body, "stream"):
        raise BadRequest("stream", "the text is given whole here; /generate_stream streams")
    return _exchange(body, model, streams=False)


def generate_stream(body: Body, model: Model) -> Exchange:
    """TGI's, always by events."""
    read_flag(body, "stream")
    return _exchange(body, model, streams=True)


def info(served: Sequence[Model]) -> dict[str, Any]:
    """What TGI tells of itself, whose one model is the first; `models`, which TGI's clients pass over, are all."""
    return {
        **_about(served[0]),
        "models": [_about(model) for model in served],
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 1,
        "max_best_of": 1,
        "max_stop_sequences": MOST_STOPS,
        "max_new_tokens": MOST_TOKENS,
        "max_client_batch_size": 1,
        "router": "fimble",
        "version": tool_version(),
    }


def _about(model: Model) -> dict[str, Any]:
    return {
        "model_id": model.name,
        "model_sha": model.digest,
        "model_dtype": model.scheme,
        "max_input_tokens": model.context_size - 1,
        "max_total_tokens": model.context_size,
    }


def _exchange(body: Body, model: Model, streams: bool) -> Exchange:
    """`{"inputs": …, "parameters": {…}}`."""
    parameters = _parameters(body)
    refuse(parameters, REFUSED)
    refuse_more_than_one(parameters, "best_of", "num_return_sequences")
    if read_number(parameters, "truncate", model.context_size, 1, 1e9) < model.context_size:
        raise BadRequest("truncate", f"prompts are cut to the context of {model.context_size} tokens; leave it out")
    details = read_flag(parameters, "details")
    echo = read_text(body, "inputs") if read_flag(parameters, "return_full_text") else ""
    wanted = request_from_prompt(body, "inputs", parameters, "max_new_tokens", model)
    if _is_old_llm_vscode(body, parameters, model):
        wanted = replace(wanted, raw=False)
    seed, number = wanted.sampling.seed, count(1)

    def whole(completion: Completion) -> dict[str, Any]:
        reply: dict[str, Any] = {"generated_text": echo + completion.text}
        if details:
            reply["details"] = {**_details(completion, seed), "prefill": [], "tokens": []}
        return reply

    def events(piece: str | Completion) -> Iterable[object]:
        if isinstance(piece, Completion):
            token = {"id": 0, "text": "", "logprob": 0.0, "special": True}
            told = {**_details(piece, seed), "input_length": piece.prompt_tokens}
            yield {"index": next(number), "token": token, "generated_text": echo + piece.text, "details": told}
        else:
            token = {"id": 0, "text": piece, "logprob": 0.0, "special": False}
            yield {"index": next(number), "token": token, "generated_text": None, "details": None}

    return Exchange(wanted, whole, Stream(EVENTS, events) if streams else None)


def _is_old_llm_vscode(body: Body, parameters: Mapping[str, Any], model: Model) -> bool:
    """Whether it is llm-vscode before 0.1, which leaves the FIM tokens out where nothing follows the cursor."""
    if body.keys() != {"inputs", "parameters"} or parameters.keys() != OLD_LLM_VSCODE:
        return False
    return bool(parameters["stop"] == [model.spec.end_of_text])


def _details(completion: Completion, seed: int | None) -> dict[str, Any]:
    """Why it ended; a rule of completion that knows the end is like a stop string."""
    reason = "length"
    if completion.finish == "stop":
        reason = "eos_token" if completion.statistics.ending == "end_token" else "stop_sequence"
    return {"finish_reason": reason, "generated_tokens": completion.statistics.generated, "seed": seed}


def _parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters; a client set up without any sends them one level too deep."""
    parameters = body.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        raise BadRequest("parameters", "an object is needed")
    return over(parameters, parameters.get("parameters"))
