"""The editors' dialects, one file each: a function takes a body apart and says how its answer is written.

What they share is here: the prompt that may hold FIM tokens, how a stream is framed, and the shapes of a failure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve import prompts
from serve.bundle import Bundle
from serve.conversation import Chat, open_chat
from serve.requests import Completion, CompletionRequest, read_max_tokens, read_sampling, read_stop, read_text
from toolchain.contracts import manifest
from toolchain.contracts.fim import FimSpec

Body = Mapping[str, Any]
TEXT_READERS = ("llm-ls", "@huggingface/inference")
LLAMA_PATHS = frozenset({"/infill", "/completion", "/completions", "/props", "/slots"})


@dataclass(frozen=True)
class Model:
    """What a dialect may tell of the bundle that is served; `defaults` hold where a body says nothing.

    `chat` is None for a model without a chat template.
    """

    name: str
    folder: Path
    spec: FimSpec
    context_size: int
    defaults: CompletionRequest
    scheme: str
    family: str
    target: str
    digest: str
    made: str
    size: int
    vocabulary: int
    chat: Chat | None


@dataclass(frozen=True)
class Framing:
    """What stands around each event of a stream, and what closes it."""

    media_type: str
    before: str
    after: str
    end: str = ""

    def frame(self, event: object) -> str:
        return f"{self.before}{json.dumps(event, separators=(',', ':'))}{self.after}"


EVENTS = Framing("text/event-stream", "data: ", "\n\n")
EVENTS_TO_DONE = Framing("text/event-stream", "data: ", "\n\n", "data: [DONE]\n\n")
LINES = Framing("application/x-ndjson", "", "\n")


@dataclass(frozen=True)
class Stream:
    """How a reply is written piece by piece: `events` turns a piece, and at last the completion, into events."""

    framing: Framing
    events: Callable[[str | Completion], Iterable[object]]


@dataclass(frozen=True)
class Exchange:
    """What a body asks for, and how the answer is written: as a stream where there is one, else as a whole."""

    wanted: CompletionRequest
    whole: Callable[[Completion], object]
    stream: Stream | None = None


def describe(bundle: Bundle) -> Model:
    """What the dialects may tell of `bundle`."""
    said = manifest.read(bundle.folder) if manifest.is_whole(bundle.folder) else None
    facts = said.facts if said else {}
    # Ollama's and TGI's clients want a digest and a date: a folder before an upstream, which is no artifact, has none.
    return Model(
        name=bundle.name,
        folder=bundle.folder,
        spec=bundle.spec,
        context_size=bundle.context_size,
        defaults=CompletionRequest("", max_tokens=bundle.max_tokens, sampling=bundle.sampling),
        scheme=str(facts.get("scheme", "")),
        family=str(facts.get("family", "")),
        target=bundle.libraries[0][0].name if bundle.libraries else "upstream",
        digest=said.digest if said else "0" * 64,
        made=said.created if said else "1970-01-01T00:00:00Z",
        size=sum(file.size for file in said.files) if said else 0,
        vocabulary=bundle.tokenizer.get_vocab_size(),
        chat=open_chat(bundle),
    )


def request_from_prompt(
    body: Body,
    prompt_field: str,
    options: Mapping[str, Any],
    tokens_field: str,
    model: Model,
    suffix: str = "",
) -> CompletionRequest:
    """A request whose prompt ends at the cursor, or without a suffix may be a FIM prompt, which is taken apart."""
    prefix = read_text(body, prompt_field)
    parts = None if suffix else prompts.take_apart(prefix, model.spec)
    around = parts or prompts.Parts(prefix, suffix)
    return CompletionRequest(
        prefix=around.prefix,
        suffix=around.suffix,
        extra=around.extra,
        raw=False if parts else None,  # FIM tokens are an editor's, also at the end of a file
        max_tokens=read_max_tokens(options, tokens_field, model.defaults.max_tokens),
        sampling=read_sampling(options, model.defaults.sampling),
        stop=read_stop(options, "stop"),
    )


def is_warm_up(body: Body) -> bool:
    """Whether the prompt is to be read and nothing said: llama.cpp's editors ask for that while their user is idle."""
    count = body.get("n_predict")
    return count == 0 and not isinstance(count, bool)


def error_body(path: str, agent: str, status: int, message: str, field: str, kind: str) -> dict[str, Any]:
    """`error` as the clients of that path have it: a text, or OpenAI's object or llama.cpp's.

    llm-ls reads the body whatever the status, and of its backends the one for llama.cpp wants a text below `/v1/` too,
    as does Hugging Face's client for JavaScript. In `detail`, which llm-ls's one for OpenAI reads, `loc` is one text,
    not the list that FastAPI writes.
    """
    error: object = message
    blame = "invalid_request_error" if status < 500 else "server_error"
    if agent.startswith(TEXT_READERS):
        pass
    elif path.startswith("/v1/"):
        error = {"message": message, "type": blame, "param": field, "code": kind}
    elif path in LLAMA_PATHS:
        error = {"code": status, "message": message, "type": blame}
    return {"error": error, "error_type": kind, "detail": [{"loc": field, "msg": message, "type": kind}]}
