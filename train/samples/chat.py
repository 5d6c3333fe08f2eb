"""Dialogues to samples: the assistant's turns are predicted, all else is only read.

An answer is what a model's template writes behind the text with which it asks for that answer, up to the control token
that closes it. So it is found for any template, and whatever was read before it is, id for id, the prompt that the
server will send. A dialogue is one sample as long as each prompt begins with the ids so far. Where it does not (some
templates leave the thoughts out of earlier answers, and a tokenizer may join what two turns meet in), and where the
sequence is full, a new sample begins: with the system message and the whole conversation again, or, for want of room,
with the user's message before the answer. Every answer is predicted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolchain.contracts.chat.format import ChatFormat, Message
from toolchain.contracts.errors import ArtifactError, TemplateRefusal
from train.samples.cut_dialogues import CutDialogues
from train.samples.sample import Sample

TRIAL = [Message("user", "1"), Message("assistant", "2"), Message("user", "3"), Message("assistant", "4")]
MEND = "Mend the base's chat template, or use --chat-template reference."


@dataclass
class CutDialogue:
    """What became of a dialogue: samples, answers in it, and what of answers found no room in a sequence."""

    samples: list[Sample] = field(default_factory=list)
    answers: int = 0
    shortened: int = 0
    """Answers of which a sequence held only the beginning."""
    left_out: int = 0
    """Answers whose prompt alone filled a sequence."""
    lost_tokens: int = 0


@dataclass(frozen=True)
class ChatSampler:
    """How dialogues become samples of at most `length` ids for one base and its template."""

    format: ChatFormat
    padding: int
    length: int
    seed: int

    @property
    def control(self) -> frozenset[int]:
        return self.format.tokens.ids

    def samples(self, document: Sequence[Sample], epoch: int, number: int) -> Iterator[Sample]:
        """The samples of a dialogue that is cut already, the same in every epoch."""
        return iter(document)

    def cut(self, messages: Sequence[Message]) -> CutDialogue:
        """A dialogue as samples that fit the sequence.

        Raises TemplateRefusal when the template does not take it, and ArtifactError for a template that does not tell
        where answers begin or end.
        """
        users = [at for at, message in enumerate(messages) if message.role == "user"]
        head, begin, latest = list(messages[: users[0]]), users[0], users[0]
        made, growing = CutDialogue(), _Growing()
        for at, message in enumerate(messages):
            if message.role == "user":
                latest = at
            if message.role != "assistant":
                continue
            made.answers += 1
            prompt, answer = self._turn([*head, *messages[begin:at]], message)
            if len(prompt) + len(answer) > self.length and begin < latest:
                begin = latest
                prompt, answer = self._turn([*head, *messages[begin:at]], message)
            room = self.length - len(prompt)
            made.left_out += room < 1
            made.shortened += 0 < room < len(answer)
            made.lost_tokens += max(0, len(answer) - max(0, room))
            if room < 1:
                continue
            if prompt[: len(growing.ids)] != growing.ids:
                made.samples += growing.finish()
            growing.extend(prompt, answer[:room], self._text_bytes(answer[:room]))
        made.samples += growing.finish()
        return made

    def _turn(self, context: Sequence[Message], message: Message) -> tuple[list[int], list[int]]:
        """The ids with which the template asks for `message` after `context`, and those of the message as answered."""
        asked = self.format.text(context, asking=True)
        told = self.format.text([*context, message], asking=False)
        if not told.startswith(asked):
            raise ArtifactError("the chat template does not write an answer behind the text that asks for it", MEND)
        tokens = self.format.tokens
        prompt, answer = tokens.encode(asked), tokens.encode(told[len(asked) :])
        end = max((at for at, id in enumerate(answer, 1) if id in self.control), default=0)
        if not end:
            raise ArtifactError("the chat template closes answers with no control token, at which they could end", MEND)
        return prompt, answer[:end]

    def _text_bytes(self, ids: Sequence[int]) -> int:
        return len(self.format.tokens.decode([id for id in ids if id not in self.control]).encode())


@dataclass
class _Growing:
    """A sample that goes on as long as turns can be added."""

    ids: list[int] = field(default_factory=list)
    predicted: list[list[int]] = field(default_factory=list)
    text_bytes: int = 0

    def extend(self, prompt: list[int], answer: list[int], text_bytes: int) -> None:
        self.ids = [*prompt, *answer]
        self.predicted.append([len(prompt), len(self.ids)])
        self.text_bytes += text_bytes

    def finish(self) -> list[Sample]:
        """The sample, unless it is empty, and begin the next one."""
        made = [Sample(self.ids, self.text_bytes, None, self.predicted)] if self.ids else []
        self.ids, self.predicted, self.text_bytes = [], [], 0
        return made


@dataclass(frozen=True)
class Survey:
    """What the dialogues of a split come to, and how many the template refuses, by its reason."""

    dialogues: int
    refused: Counter[str]
    answers: int
    shortened: int
    left_out: int
    lost_tokens: int
    samples: int
    tokens: int
    predicted: int

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"refused": dict(self.refused)}


def cut_all(sampler: ChatSampler, dialogues: Iterable[Sequence[Message]]) -> tuple[CutDialogues, Survey]:
    """All dialogues cut, which takes milliseconds each, and counted."""
    cut = CutDialogues()
    refused: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for messages in dialogues:
        counts["dialogues"] += 1
        try:
            made = sampler.cut(messages)
        except TemplateRefusal as refusal:
            refused[refusal.message] += 1
            cut.append([])
            continue
        cut.append(made.samples)
        for name in ("answers", "shortened", "left_out", "lost_tokens"):
            counts[name] += getattr(made, name)
        counts["samples"] += len(made.samples)
        for sample in made.samples:
            counts["tokens"] += len(sample.ids)
            counts["predicted"] += sum(end - begin for begin, end in sample.predicted or [])
    names = ("dialogues", "answers", "shortened", "left_out", "lost_tokens", "samples", "tokens", "predicted")
    return cut, Survey(refused=refused, **{name: counts[name] for name in names})
