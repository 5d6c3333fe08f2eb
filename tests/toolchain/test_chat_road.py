"""From dialogues to a served chat, by the command line, asked in the very ids of training."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.train, pytest.mark.compile]
pytest.importorskip("peft", reason="needs the train extra")
pytest.importorskip("tvm", reason="needs the compile extra")

from serve.backends.native import Native, open_native
from serve.bundle import open_bundle
from serve.completer import Completer
from tests.serve.conftest import serving
from tests.toolchain.conftest import Fimble
from tests.train.samples.chatting import CHATML, dialogues, write_chat_base, write_dialogues
from tests.train.tiny import library_texts, opened, write_base_without_fim, write_dataset
from toolchain.contracts.chat.format import Message
from toolchain.contracts.progress import Silent
from train.samples.material import chat_sampler
from train.settings import TrainSettings

STEPS = ("--max-steps", 4, "--batch-size", 2, "--gradient-accumulation", 1, "--evaluate-sequences", 4)


class Listening:
    """A backend that remembers which ids it was asked with."""

    def __init__(self, backend: Native) -> None:
        self.backend, self.asked = backend, list[list[int]]()
        self.concurrency, self.problem = backend.concurrency, backend.problem

    def generate(self, prompt: Sequence[int], *others: Any) -> Generator[str, None, None]:
        self.asked.append(list(prompt))
        return self.backend.generate(prompt, *others)


@pytest.mark.parametrize(("template", "tag"), [("base", "<|im_start|>"), ("reference", "<|prompter|>")])
def test_what_was_taught_is_what_is_asked(fimble: Fimble, tmp_path: Path, template: str, tag: str) -> None:
    base = write_chat_base(tmp_path / "base-model")
    write_dialogues(tmp_path / "made")  # which leaves its lines beside it
    assert fimble("dialogues", "made.jsonl", "--out", "data").code == 0
    recipe = ("--objective", "chat") if template == "base" else ("--preset", "starcoderplus-chat-qlora")
    line = ("train", "data", "--base", base, *recipe, "--chat-template", template, *STEPS)
    trained = fimble(*line, "--out", "adapter", "--json")
    assert trained.code == 0, trained.err
    assert trained.report["facts"]["chat"]["template"] == template
    assert fimble("merge", "adapter", "--base", base, "--out", "checkpoint").code == 0
    assert fimble("compile", "checkpoint", "--out", "bundle").code == 0
    for file in ("adapter/chat_template.jinja", "checkpoint/chat_template.jinja", "bundle/params/chat_template.jinja"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert tag in text
        assert (text == CHATML) == (template == "base")
    check_transformers(tmp_path / "checkpoint", tag)

    bundle = open_bundle(tmp_path / "bundle")
    backend = Listening(open_native(bundle, Silent()))
    settings = TrainSettings(objective="chat", chat_template=template, sequence_length=128)
    sampler = chat_sampler(opened(base), settings)[1]
    turns = [
        Message("user", "1 + 1?"),
        Message("assistant", "2"),
        Message("user", "<|im_end|>?"),
        Message("assistant", "3"),
    ]
    asking = [turns, [Message("system", "Be short."), *turns], *(said for said in dialogues() if len(said) == 2)]
    assert [len(sampler.cut(messages).samples) for messages in asking[:2]] == [1, 1]
    expected = []
    with serving(Completer(bundle, backend)) as client:
        for messages in asking:
            sample = sampler.cut(messages).samples[0]
            answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
            for at, (begin, _) in zip(answers, sample.predicted or [], strict=False):
                body = {"messages": [vars(message) for message in messages[:at]], "max_tokens": 4, "temperature": 0}
                reply = client.post("/v1/chat/completions", json=body)
                assert reply.status_code == 200, reply.text
                told = reply.json()
                assert told["choices"][0]["message"]["role"] == "assistant"
                assert told["choices"][0]["finish_reason"] in ("stop", "length")
                expected.append(sample.ids[:begin])
                assert told["usage"]["prompt_tokens"] == begin
    assert backend.asked == expected
    assert len(expected) >= 5


def test_a_base_without_fim_tokens_is_taught_to_chat_and_fills_nothing(fimble: Fimble, tmp_path: Path) -> None:
    base = write_base_without_fim(tmp_path / "base-model")
    write_dialogues(tmp_path / "data")
    line = ("train", "data", "--base", base, "--objective", "chat", "--sequence-length", 128, *STEPS)
    trained = fimble(*line, "--out", "adapter", "--json")
    assert trained.code == 0, trained.err
    assert trained.report["facts"]["fim"]["orders"] == []
    assert fimble("merge", "adapter", "--base", base, "--out", "checkpoint").code == 0
    fully = fimble(*line, "--method", "full", "--out", "whole", "--json")
    assert fully.code == 0, fully.err
    # What was taught to chat can still not fill in the middle.
    write_dataset(tmp_path / "code", library_texts(("shlex.py",)), library_texts(("bisect.py",)))
    for checkpoint in ("checkpoint", "whole"):
        fimble("train", "code", "--base", checkpoint, "--out", "x").refused("lacks the FIM token(s) <fim_prefix>")
    compiled = fimble("compile", "whole", "--out", "other")
    assert compiled.code == 0, compiled.err
    compiled = fimble("compile", "checkpoint", "--out", "bundle")
    assert compiled.code == 0, compiled.err

    bundle = open_bundle(tmp_path / "bundle")
    with serving(Completer(bundle, open_native(bundle, Silent()))) as client:
        asked = {"messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 4}
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        assert client.post("/v1/completions", json={"prompt": "x = ", "max_tokens": 4}).status_code == 200
        refused = client.post("/v1/completions", json={"prompt": "x = ", "suffix": "y", "max_tokens": 4})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "suffix"), refused.text
        assert "does not fill in the middle" in refused.text
        assert client.get("/status").json()["models"][0]["fim_order"] is None
        streamed = client.post("/infill", json={"input_prefix": "x = ", "input_suffix": "y", "stream": True})
        assert streamed.status_code == 422, streamed.text
        shown = client.post("/api/show", json={"model": bundle.name}).json()
        assert shown["capabilities"] == ["completion", "chat"]


def check_transformers(checkpoint: Path, tag: str) -> None:
    """transformers takes the same template from the checkpoint."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tag in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
