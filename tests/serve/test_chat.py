"""Prompts of a chat: the ids that transformers makes too, whose control tokens are the template's alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from serve.bundle import Bundle, open_bundle
from serve.conversation import Chat, open_chat
from serve.requests import BadRequest
from tests.serve.conftest import CHATML, train_tokenizer, write_bundle
from toolchain.contracts.chat.format import Message
from toolchain.contracts.chat.template import find
from toolchain.contracts.errors import ArtifactError

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>"]
CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"__type": "AddedToken", "content": "</s>"},
    "tokenizer_class": "TokenizersBackend",
}
# The shapes of templates that models bring, in our own words.
QUESTION_ANSWER = """\
{%- for message in messages -%}
    {%- if message['role'] == 'user' %}{{ 'Question: ' ~ message['content'] | trim ~ '\\n\\n' }}
    {%- elif message['role'] == 'assistant' %}{{ 'Answer: ' ~ message['content'] | trim ~ '<|endoftext|>\\n\\n' }}
    {%- else %}{{ message['content'] ~ '\\n\\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'Answer:' }}{% endif -%}
"""
LLAMA = """\
{% if messages[0]['role'] == 'system' %}
{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% set turns = messages[1:] %}
{% else %}
{% set system = '' %}
{% set turns = messages %}
{% endif %}
{% for message in turns %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user and assistant') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' -}}
{% else %}
{{ ' ' + message['content'].strip() + ' ' + eos_token -}}
{% endif %}
{% endfor %}
"""
MERGING = """\
{%- set ns = namespace(system='You help with code.') -%}
{%- for message in messages if message.role == 'system' -%}
    {%- set ns.system = ns.system ~ '\\n' ~ message.content -%}
{%- endfor -%}
{{- '<|system|>\\n' ~ ns.system ~ '</s>\\n' -}}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}
    {%- set said = message.content -%}
    {%- if message.role == 'assistant' -%}{%- set said = said.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}
    {{- '<|' ~ message.role ~ '|>\\n' ~ said ~ eos_token ~ '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
TEMPLATES = {"chatml": CHATML, "question-answer": QUESTION_ANSWER, "llama": LLAMA, "merging": MERGING}
CONVERSATIONS = {
    "one turn": [("user", "  Sort a list in Python. ")],
    "system": [("system", "Be short."), ("user", "def f(a):\n    return a\n\nWhat is this?")],
    "three turns": [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb < c\n"), ("user", "d é 漢 🎉 >")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose tokenizer knows the control tokens of all TEMPLATES; the last ones swallow white space."""
    tokenizer = train_tokenizer()
    tokenizer.add_special_tokens(SPECIAL[:-3])
    tokenizer.add_special_tokens([AddedToken(name, lstrip=True, rstrip=True) for name in SPECIAL[-3:]])
    tokenizer.add_tokens(["<think>", "</think>"])
    files = {"tokenizer_config.json": json.dumps(CONFIG)}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "chatty", tokenizer, files=files)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Bundle:
    return open_bundle(folder)


@pytest.fixture(scope="module", params=TEMPLATES)
def chat(
    request: pytest.FixtureRequest, folder: Path, opened: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Chat:
    return chat_of(opened, TEMPLATES[request.param], tmp_path_factory.mktemp("template"))


def chat_of(bundle: Bundle, template: str, folder: Path) -> Chat:
    """`bundle`'s, with another template, as a file of its own."""
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    (folder / "chat_template.jinja").write_text(template)
    found = open_chat(replace(bundle, params=folder))
    assert found is not None
    return found


def said(turns: Sequence[tuple[str, str]]) -> list[Message]:
    return [Message(role, content) for role, content in turns]


def read(chat: Chat, ids: Sequence[int]) -> str:
    tokenizer: Tokenizer = chat.format.tokens._tokenizer
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


@pytest.mark.train
@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_prompt_is_what_transformers_makes_of_it(chat: Chat, folder: Path, turns: list[tuple[str, str]]) -> None:
    auto = pytest.importorskip("transformers", reason="needs the train extra").AutoTokenizer
    theirs = auto.from_pretrained(folder / "params").apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        chat_template=chat.format.template.source,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert chat.prompt(said(turns), 10_000) == theirs


nasty = st.lists(
    st.sampled_from(
        [*SPECIAL, "<fim_middle>", "<|endoftext|>", "<", ">", "|im_start|>", "[INST", "\ufdd0", " ", "\n", "é", "a"]
    ),
    max_size=6,
).map("".join)


@settings(deadline=None, max_examples=60)
@given(typed=nasty, earlier=nasty)
def test_control_tokens_in_messages_stay_text(chat: Chat, typed: str, earlier: str) -> None:
    """As many control tokens as for harmless messages, the same ones, and all text is still there."""

    def control(contents: tuple[str, str, str]) -> list[int]:
        ids = chat.prompt(said(list(zip(["user", "assistant", "user"], contents, strict=True))), 10_000)
        special = set(chat.format.tokens._ids.values())
        return [id for id in ids if id in special]

    assert control((typed, earlier, typed)) == control(("x", "y", "z"))
    ids = chat.prompt(said([("user", f"({typed})")]), 10_000)
    assert f"({typed})".replace("\ufdd0", "\ufffd") in read(chat, ids)


@pytest.mark.train
def test_transformers_own_way_of_keeping_tokens_out_agrees(chat: Chat, folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the train extra")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "params")
    if "sanitize_control_tokens" not in tokenizer.apply_chat_template.__doc__:
        pytest.skip("this transformers does not have it")
    typed = "Say <|im_end|> and <fim_middle> and [INST] please"
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": typed}],
        chat_template=chat.format.template.source,
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        return_dict=False,
    )
    ours = chat.prompt(said([("user", typed)]), 10_000)
    special = set(chat.format.tokens._ids.values())
    assert [id for id in ours if id in special] == [id for id in theirs if id in special]
    assert read(chat, ours) == tokenizer.decode(theirs)


def test_what_a_template_does_to_messages_still_works(opened: Bundle, tmp_path: Path) -> None:
    """Trimming and parting see the user's text, also when it holds control tokens."""
    chat = chat_of(opened, MERGING, tmp_path)
    ids = chat.prompt(said([("user", "q"), ("assistant", "<think>no</think>\n\nyes <|user|>"), ("user", "q")]), 10_000)
    assert "no" not in read(chat, ids).partition("<|assistant|>")[2]
    trimming = chat_of(opened, "{{ messages[0].content | trim }}|", tmp_path)
    assert read(trimming, trimming.prompt(said([("user", "  <|user|> <  ")]), 99)) == "<|user|> <|"


def test_the_oldest_turns_go_when_not_all_fit(opened: Bundle, tmp_path: Path) -> None:
    chat = chat_of(opened, LLAMA, tmp_path)
    turns = [("system", "Be short.")]
    for number in range(20):
        turns += [("user", f"question {number}"), ("assistant", f"answer {number}")]
    turns.append(("user", "the last"))
    whole = chat.prompt(said(turns), 10_000)
    for room in (len(whole), len(whole) - 1, 200, 120):
        prompt = chat.prompt(said(turns), room)
        assert len(prompt) <= room
        text = read(chat, prompt)
        assert text.startswith("<s>[INST] <<SYS>>\nBe short.\n<</SYS>>\n\nquestion ")
        assert text.endswith("the last [/INST]")
        assert (prompt == whole) == (room == len(whole))
        if room < len(whole):
            kept = text.count("[/INST]")
            more = said([turns[0], *turns[-2 * kept - 1 :]])
            assert len(chat.prompt(more, 10_000)) > room
    with pytest.raises(BadRequest, match="messages: the last turn alone does not fit the 10 tokens"):
        chat.prompt(said(turns), 10)
    with pytest.raises(BadRequest, match="does not fit"):
        chat.prompt(said([("user", "x" * 1_000_000)]), 100)


def test_a_template_may_refuse(opened: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="refuses them: roles must alternate"):
        chat_of(opened, LLAMA, tmp_path).prompt(said([("user", "a"), ("user", "b")]), 100)
    with pytest.raises(ArtifactError, match="writes nothing"):
        chat_of(opened, "{# nothing #}", tmp_path).prompt(said([("user", "a")]), 100)


def test_the_documented_template_works(opened: Bundle, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    template = page.partition("\n## Chat\n")[2].split("```")[1].removeprefix("\n")
    chat = chat_of(opened, template, tmp_path)
    ids = chat.prompt(said([("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "c")]), 1000)
    assert read(chat, ids) == "Be short.\n\nQuestion: a\n\nAnswer: b</s>\n\nQuestion: c\n\nAnswer:"


def test_where_a_template_is_found(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"

    def found(**content: Any) -> Any:
        config.write_text(json.dumps(content))
        return find(tmp_path)

    assert find(tmp_path) is None
    assert found(bos_token="<s>") is None
    assert found(chat_template="one").source == "one"
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]
    assert found(chat_template=several).source == "usual"
    assert found(chat_template=several[:1]) is None
    assert found(chat_template={"no": "text"}) is None
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "old"}))
    template = found(chat_template="one", bos_token={"content": "<s>"}, pad_token=None, add_bos_token=True)
    assert (template.source, template.variables) == ("file", {"bos_token": "<s>", "eos_token": "</s>"})
    config.write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json cannot be read"):
        find(tmp_path)
