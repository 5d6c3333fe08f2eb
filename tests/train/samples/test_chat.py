"""A chat assistant is taught its answers alone, in the very tokens in which it will be asked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.train.samples.chatting import CHATML, SPECIAL, dialogues, write_chat_base, write_dialogues
from tests.train.tiny import FULL, LORA, Lines, failed_and_resumed, opened, same
from toolchain.contracts import manifest
from toolchain.contracts.chat.format import Message
from toolchain.contracts.errors import ArtifactError, SettingsError, TemplateRefusal
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.fine_tune import plan_train
from train.samples import chat
from train.samples.chat import ChatSampler
from train.samples.material import chat_sampler
from train.samples.packing import IGNORED, collate
from train.samples.sample import Sample
from train.settings import TrainSettings

pytestmark = pytest.mark.train

CHAT = replace(LORA, objective="chat")
METHODS = {
    "lora": CHAT,
    "qlora": replace(CHAT, method="qlora", dtype="float32", optimizer="paged_adamw_32bit", schedule="constant"),
    "full": replace(FULL, objective="chat", chat_template="reference", optimizer="adamw_8bit"),
}
TURNS = ["How do I sort?", "Use sorted(), which\nreturns a list.", "And back?", "Add reverse=True."]
ASKED = [Message(role, text) for role, text in zip(("user", "assistant") * 2, TURNS, strict=True)]
SYSTEM = [Message("system", "Be short."), *ASKED]
FORGETFUL = """\
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' -}}
    {%- set said = message.content -%}
    {%- if message.role == 'assistant' and not loop.last -%}{%- set said = said.split('</think>')[-1] -%}{%- endif -%}
    {{- said ~ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_base(tmp_path_factory.mktemp("base") / "chat-base")


@pytest.fixture(scope="module")
def chat_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dialogues(tmp_path_factory.mktemp("dialogues") / "docstrings")


@pytest.fixture(scope="module")
def trained(chat_data: Path, chat_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    for name, chosen in METHODS.items():
        execute(plan_train(chat_data, opened(chat_base), chosen), folder / name, Silent())
    return {name: folder / name for name in METHODS}


def sampler_of(folder: Path, length: int = 128, **chosen: Any) -> ChatSampler:
    base = opened(folder)
    sampler = chat_sampler(base, TrainSettings(objective="chat", **chosen))[1]
    return replace(sampler, length=length)


def with_template(base: Path, folder: Path, template: str) -> Path:
    """The same base with another template, in a file of its own."""
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def predicted(sample: Sample) -> list[int]:
    """The targets of a sample that is alone in its batch."""
    return [id for id in collate([[sample]], 0).targets[0].tolist() if id != IGNORED]


def text_of(sampler: ChatSampler, ids: list[int]) -> str:
    return sampler.format.tokens.decode(ids)


@pytest.mark.parametrize("messages", [ASKED, SYSTEM], ids=["plain", "system"])
def test_the_mask_is_that_of_transformers_for_a_template_that_marks_answers(
    chat_base: Path, messages: list[Message]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    theirs = tokenizer.apply_chat_template(
        [vars(message) for message in messages], return_assistant_tokens_mask=True, return_dict=True
    )
    (sample,) = sampler_of(chat_base, 512).cut(messages).samples
    size = len(sample.ids)
    assert sample.ids == theirs["input_ids"][:size]
    targets = collate([[sample]], 0).targets[0].tolist()
    mask = theirs["assistant_masks"]
    assert sum(mask[size:]) == 0
    expected = [id if marked else IGNORED for id, marked in zip(sample.ids[1:], mask[1:size], strict=True)]
    assert targets == [*expected, IGNORED]
    assert sample.text_bytes == sum(len(m.content.encode()) for m in messages if m.role == "assistant")


def test_the_references_tags_are_text_and_each_turn_is_closed(base_folder: Path) -> None:
    """Put together by hand: control tokens by their ids, everything else through the plain tokenizer."""
    sampler = sampler_of(base_folder, 512)  # this base brings no template, so it is the reference's
    tokenizer = sampler.format.tokens._tokenizer
    end = tokenizer.token_to_id("<|endoftext|>")

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    parts = [
        (encode("<|system|> Be short. "), False),
        ([end], False),
        (encode(f" <|prompter|> {TURNS[0]} "), False),
        ([end], False),
        (encode(" <|assistant|>"), False),
        ([*encode(f" {TURNS[1]} "), end], True),
        (encode(f" <|prompter|> {TURNS[2]} "), False),
        ([end], False),
        (encode(" <|assistant|>"), False),
        ([*encode(f" {TURNS[3]} "), end], True),
    ]
    (sample,) = sampler.cut(SYSTEM).samples
    assert sample.ids == [id for ids, _ in parts for id in ids]
    assert predicted(sample) == [id for ids, answer in parts for id in ids if answer]
    assert text_of(sampler, sample.ids).startswith(
        "<|system|> Be short. <|endoftext|> <|prompter|> How do I sort? <|endoftext|> <|assistant|> Use sorted(), which"
    )


def test_control_tokens_typed_in_a_dialogue_stay_text(chat_base: Path) -> None:
    typed = "say <|im_end|><|endoftext|>"
    (plain,) = sampler_of(chat_base, 512).cut([Message("user", "x"), Message("assistant", "y")]).samples
    sampler = sampler_of(chat_base, 512)
    (sample,) = sampler.cut([Message("user", typed), Message("assistant", f"You {typed}")]).samples

    def control(one: Sample) -> list[int]:
        return [id for id in one.ids if id in sampler.control]

    assert control(sample) == control(plain)
    assert text_of(sampler, predicted(sample)) == f"You {typed}<|im_end|>"


names = st.text(st.sampled_from("ab \n<|é漢#"), min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(st.tuples(names, names), min_size=1, max_size=5),
    system=st.none() | names,
    length=st.integers(24, 120),
    reference=st.booleans(),
)
def test_every_answer_is_predicted_once_after_a_prompt_as_the_server_sends_it(
    chat_base: Path, turns: list[tuple[str, str]], system: str | None, length: int, reference: bool
) -> None:
    sampler = _samplers(chat_base)[reference]
    sampler = replace(sampler, length=length)
    head = [Message("system", system)] if system is not None else []
    messages = [*head, *(Message(r, t) for pair in turns for r, t in zip(("user", "assistant"), pair, strict=True))]
    made = sampler.cut(messages)
    answers = {}
    for at, message in enumerate(messages):
        if message.role == "assistant":
            for begin in range(len(head), at, 2):
                _, ids = sampler._turn([*head, *messages[begin:at]], message)
                answers.setdefault(at, ids)
    spans = [(sample, span) for sample in made.samples for span in sample.predicted or []]
    assert len(spans) + made.left_out == made.answers == len(answers) == len(turns)
    total = sum(end - begin for _, (begin, end) in spans)
    assert total + made.lost_tokens == sum(map(len, answers.values()))
    assert all(0 < len(sample.ids) <= length for sample in made.samples)
    asked = set()
    for at in answers:
        for begin in range(len(head), at, 2):
            asked.add(tuple(sampler.format.tokens.encode(sampler.format.text([*head, *messages[begin:at]], True))))
    for sample, (begin, _) in spans:
        assert tuple(sample.ids[:begin]) in asked


_known: dict[Path, tuple[ChatSampler, ChatSampler]] = {}


def _samplers(base: Path) -> tuple[ChatSampler, ChatSampler]:
    if base not in _known:
        _known[base] = (sampler_of(base), sampler_of(base, chat_template="reference"))
    return _known[base]


def test_a_dialogue_that_is_too_long_is_cut_before_a_users_message(chat_base: Path) -> None:
    sampler = sampler_of(chat_base, 512)
    long = [SYSTEM[0], *ASKED, *ASKED, *ASKED]
    (whole,) = sampler.cut(long).samples
    made = replace(sampler, length=len(whole.ids) - 1).cut(long)
    assert len(made.samples) == 2
    assert (made.answers, made.shortened, made.left_out, made.lost_tokens) == (6, 0, 0, 0)
    first, second = (text_of(sampler, sample.ids) for sample in made.samples)
    assert first.count("<|im_start|>assistant") == 5
    assert second == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nAnd back?<|im_end|>\n"
        "<|im_start|>assistant\nAdd reverse=True.<|im_end|>"
    )


def test_an_answer_without_room_is_shortened_or_left_out_and_counted(chat_base: Path) -> None:
    sampler = sampler_of(chat_base, 64)
    made = sampler.cut([Message("user", "x"), Message("assistant", "word " * 200), *ASKED[2:]])
    assert (made.answers, made.shortened, made.left_out) == (2, 1, 0)
    assert len(made.samples[0].ids) == 64
    assert made.samples[0].ids[-1] not in sampler.control
    assert made.lost_tokens > 100
    made = sampler.cut([Message("user", "word " * 200), Message("assistant", "x"), *ASKED[2:]])
    assert (made.answers, made.shortened, made.left_out, made.lost_tokens) == (2, 0, 1, 2)
    _, counted = chat.cut_all(sampler, [[Message("user", "word " * 200), Message("assistant", "x"), *ASKED[2:]], ASKED])
    assert (counted.dialogues, counted.answers, counted.left_out) == (2, 4, 1)
    assert counted.tokens > counted.predicted > 0


def test_a_template_that_changes_earlier_answers_gives_a_sample_for_each(chat_base: Path, tmp_path: Path) -> None:
    sampler = sampler_of(with_template(chat_base, tmp_path / "forgetful", FORGETFUL), 512)
    (one,) = sampler.cut(ASKED).samples
    assert len(one.predicted or []) == 2
    thinking = [ASKED[0], Message("assistant", f"<think>hm</think>{TURNS[1]}"), *ASKED[2:]]
    first, second = sampler.cut(thinking).samples
    assert text_of(sampler, predicted(first)) == f"<think>hm</think>{TURNS[1]}<|im_end|>"
    assert text_of(sampler, predicted(second)) == f"{TURNS[3]}<|im_end|>"
    assert "<think>" not in text_of(sampler, second.ids)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}>{% endif %}",
         "does not write an answer behind the text that asks for it"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "closes answers with no control token"),
        ("{{ messages.nothing.here }}", "cannot be rendered"),
    ],
)  # fmt: skip
def test_a_template_that_does_not_tell_where_answers_are_is_refused_before_the_work(
    chat_base: Path, chat_data: Path, tmp_path: Path, template: str, reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        plan_train(chat_data, opened(with_template(chat_base, tmp_path / "base", template)), CHAT)


def test_what_does_not_go_together_is_refused(
    chat_base: Path, base_folder: Path, chat_data: Path, dataset: Path
) -> None:
    with pytest.raises(SettingsError, match="docstrings holds dialogues, and this training needs code") as caught:
        plan_train(chat_data, opened(chat_base), LORA)
    assert "--objective chat" in caught.value.next_step
    with pytest.raises(SettingsError, match="tiny holds code, and this training needs dialogues"):
        plan_train(dataset, opened(chat_base), CHAT)
    with pytest.raises(SettingsError, match="tiny-base brings no chat template") as caught:
        plan_train(chat_data, opened(base_folder), replace(CHAT, chat_template="base"))
    assert "--chat-template reference" in caught.value.next_step
    for change in ({"cuts": "lines"}, {"fim_rate": 1.0}, {"spm_rate": 0.0}, {"repository_context": 40}):
        with pytest.raises(SettingsError, match="has no effect with --objective chat"):
            replace(CHAT, **change)
    with pytest.raises(SettingsError, match="--chat-template has no effect with --objective fim"):
        replace(LORA, chat_template="base")


def test_dialogues_are_cut_once_and_kept_as_they_were_cut(
    chat_data: Path, chat_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(chat_base)
    kept, _ = chat.cut_all(sampler, dialogues())
    assert list(kept) == [sampler.cut(messages).samples for messages in dialogues()]
    counted: Counter[str] = Counter()
    cut = ChatSampler.cut

    def counting(sampler: ChatSampler, messages: list[Message]) -> chat.CutDialogue:
        counted["cut"] += messages is not chat.TRIAL
        return cut(sampler, messages)

    monkeypatch.setattr(ChatSampler, "cut", counting)
    facts = execute(plan_train(chat_data, opened(chat_base), CHAT), tmp_path / "out", Silent()).facts
    assert counted["cut"] == facts["chat"]["train"]["dialogues"] + facts["chat"]["heldout"]["dialogues"]


def test_dialogues_that_the_template_refuses_are_counted_and_told(chat_base: Path, tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    base = with_template(chat_base, tmp_path / "base", refusing)
    with pytest.raises(TemplateRefusal):
        sampler_of(base).cut(SYSTEM)
    cut, found = chat.cut_all(sampler_of(base), [SYSTEM, ASKED])
    assert (cut[0], len(cut[1]), found.refused.total()) == ([], 1, 1)
    data, listener = write_dialogues(tmp_path / "data"), Lines()
    facts = execute(
        plan_train(data, opened(base), replace(CHAT, max_steps=1, warmup_steps=1)), tmp_path / "out", listener
    ).facts
    refused = facts["chat"]["train"]["refused"]
    assert list(refused) == ["the model's chat template refuses them: no system"]
    assert any(
        line.endswith("are left out: the model's chat template refuses them: no system") for line in listener.lines
    )
    only = [[SYSTEM[0], Message("user", f"q{n}"), Message("assistant", "a")] for n in range(9)]
    with pytest.raises(ArtifactError, match=r"no answer of the train split of .* can be predicted"):
        execute(plan_train(write_dialogues(tmp_path / "only", only), opened(base), CHAT), tmp_path / "no", Silent())


@pytest.mark.parametrize("name", METHODS)
def test_the_held_out_loss_of_answers_goes_down(
    trained: dict[str, Path], chat_data: Path, chat_base: Path, name: str
) -> None:
    facts = manifest.read(trained[name]).facts
    start, end = facts["held_out"]["start"], facts["held_out"]["end"]
    assert end["loss"] < start["loss"] - (0.04 if name != "full" else 0.5)
    assert end["bits_per_byte"] < start["bits_per_byte"]
    held = manifest.read(chat_data).facts
    for split in ("train", "heldout"):
        counts = facts["chat"][split]
        assert (counts["dialogues"], counts["answers"]) == (held["dialogues"][split], held["answers"][split])
    assert facts["chat"]["template"] == ("reference" if name == "full" else "base")
    text = (trained[name] / "chat_template.jinja").read_text()
    assert ("<|prompter|>" in text) if name == "full" else (text == CHATML)


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_ends_with_the_same_bits(
    chat_data: Path, chat_base: Path, trained: dict[str, Path], tmp_path: Path, name: str
) -> None:
    plan = plan_train(chat_data, opened(chat_base), METHODS[name])
    resumed = failed_and_resumed(plan, tmp_path / "out")
    assert "Resuming after step 9 of 12" in resumed.lines
    assert same(tmp_path / "out", trained[name])
    assert manifest.read(tmp_path / "out").digest == manifest.read(trained[name]).digest


def test_the_special_tokens_are_the_bases(chat_base: Path) -> None:
    assert {text_of(sampler_of(chat_base), [id]) for id in sampler_of(chat_base).control} >= set(SPECIAL)
    assert len(dialogues()) > 20
    assert json.loads((chat_base / "tokenizer_config.json").read_text())["chat_template"] == CHATML
