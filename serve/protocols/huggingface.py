"""Hugging Face's inference dialect: `POST /`, `POST /models/{model}` and, as TGI, `POST /generate`.

llm-vscode 0.0.38 and llm-ls's `huggingface` backend take an object or a list, jupytercoder only a list, llm-ls's
`tgi` backend only an object. So the first two routes answer with a list and `/generate` with an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serve.protocols import Body, Exchange, Model, request_from_prompt
from serve.requests import BadRequest, Completion, over, read_flag, read_text, refuse_more_than_one

FINISH = {"stop": "eos_token", "length": "length", "cancelled": "eos_token"}


def generate(body: Body, model: Model) -> Exchange:
    """`{"inputs": …, "parameters": {…}}`, answered by an object."""
    parameters = _parameters(body)
    if read_flag(body, "stream"):
        raise BadRequest("stream", "the text is given whole here; /v1/completions streams")
    refuse_more_than_one(parameters, "best_of", "num_return_sequences")
    for name in ("details", "return_full_text"):
        read_flag(parameters, name)
    wanted = request_from_prompt(body, "inputs", parameters, "max_new_tokens", model)
    return Exchange(wanted, lambda completion: _whole(body, completion))


def infer(body: Body, model: Model) -> Exchange:
    """The same, answered by a list."""
    exchange = generate(body, model)
    return replace(exchange, whole=lambda completion: [exchange.whole(completion)])


def _whole(body: Body, completion: Completion) -> dict[str, Any]:
    """`generated_text`, with the prompt before it when `return_full_text` asks for that, and TGI's `details`."""
    parameters = _parameters(body)
    echo = read_text(body, "inputs") if read_flag(parameters, "return_full_text") else ""
    reply: dict[str, Any] = {"generated_text": echo + completion.text}
    if read_flag(parameters, "details"):
        reply["details"] = {
            "finish_reason": FINISH[completion.finish],
            "generated_tokens": completion.statistics.generated,
            "seed": parameters.get("seed"),
            "prefill": [],
            "tokens": [],
        }
    return reply


def _parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters; a client set up without any sends them one level too deep."""
    parameters = body.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        raise BadRequest("parameters", "an object is needed")
    return over(parameters, parameters.get("parameters"))
