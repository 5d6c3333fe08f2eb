"""What a run learns from and is measured with: the documents of a dataset, and how they become samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from toolchain.contracts import fim
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Progress
from train.bases.base import Base
from train.bases.tokenization import open_text_tokenizer
from train.samples import chat, cuts, stream
from train.samples.chat import ChatSampler, Survey
from train.samples.chat_template import choose_format
from train.samples.dataset import Split, open_dialogues, open_files, open_texts
from train.samples.fim import Sampler
from train.samples.repository import RepositoryContext
from train.samples.sample import Sample, SampleSource
from train.settings import TrainSettings

T = TypeVar("T")
SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclass(frozen=True)
class Material:
    """The `documents` to learn from with their `sampler`, and those `held_out` with the one for `measuring`.

    `tokens` are about how many a pass over `documents` takes, of which a sequence has room for `room`; `facts` are what
    an artifact says of it all.
    """

    documents: Sequence[Any]
    held_out: Sequence[Any]
    sampler: SampleSource
    measuring: SampleSource
    tokens: int
    room: int
    facts: dict[str, Any]
    template: str | None = None
    """What chats are written with, for whoever serves what was trained."""


def of_code(base: Base, vocabulary: Path, dataset: Path, settings: TrainSettings, cache: Path) -> Material:
    """Files, for fill-in-the-middle and plain text, with the tokenizer in the folder `vocabulary`.

    Raises ArtifactError for a dataset that cannot be read.
    """
    files, held_out = open_files(dataset, "train", cache), open_texts(dataset, "heldout", cache)
    texts = files["content"]
    tokenizer = open_text_tokenizer(vocabulary, base.spec.control_tokens)
    ids = fim.resolve(base.spec, tokenizer.tokenizer.token_to_id, where=str(vocabulary / "tokenizer.json"))
    length = _length(base, settings)
    plain = Sampler(tokenizer, ids, base.spec.orders, length, settings.fim_rate, settings.spm_rate, settings.seed)
    # Always the same cuts and share of each order, so that runs with other settings can be compared.
    measuring = replace(plain, fim_rate=1.0, spm_rate=0.5, seed=0)
    ways: dict[str, cuts.Cut] = {"random": cuts.anywhere, "lines": cuts.between_lines}
    cut = ways.get(settings.cuts) or cuts.AroundNodes(list(files["language"]))
    context = None
    if settings.repository_context:
        assert ids.file_separator is not None  # or the plan would have refused
        repositories, paths = list(files["repository"]), list(files["path"])
        context = RepositoryContext(
            repositories, paths, texts, tokenizer, ids.file_separator, settings.repository_context
        )
    sampler = replace(plain, cut=cut, context=context)
    facts = {"fim_rate": settings.fim_rate, "spm_rate": settings.spm_rate}
    return Material(
        documents=texts,
        held_out=held_out,
        sampler=sampler,
        measuring=measuring,
        tokens=stream.tokens_in(texts, sampler),
        room=sampler.room,
        facts=facts,
    )


def of_dialogues(base: Base, dataset: Path, settings: TrainSettings, cache: Path, progress: Progress) -> Material:
    """Dialogues, of which the answers are predicted. What of them finds no place is told, and among the facts.

    Raises ArtifactError for a dataset that cannot be read, and for a split in which there is nothing to predict.
    """
    template, sampler = chat_sampler(base, settings)
    written = {split: open_dialogues(dataset, split, cache) for split in SPLITS}
    progress.start("Reading dialogues", sum(map(len, written.values())), "dialogues")
    cut: dict[Split, tuple[Sequence[list[Sample]], Survey]] = {
        split: chat.cut_all(sampler, _counted(dialogues, progress)) for split, dialogues in written.items()
    }
    progress.finish()
    surveys = {split: found for split, (_, found) in cut.items()}
    for split, found in surveys.items():
        for line in _told(split, found):
            progress.say(line)
        if not found.predicted:
            raise ArtifactError(
                f"no answer of the {split} split of {dataset} can be predicted",
                "Use a longer --sequence-length, --chat-template reference, or other dialogues.",
            )
    return Material(
        documents=cut["train"][0],
        held_out=cut["heldout"][0],
        sampler=sampler,
        measuring=sampler,
        tokens=surveys["train"].tokens,
        room=sampler.length,
        facts={"chat": {"template": template, **{split: found.to_json() for split, found in surveys.items()}}},
        template=sampler.format.template.source,
    )


def chat_sampler(base: Base, settings: TrainSettings) -> tuple[str, ChatSampler]:
    """Whose template the base is taught with, and what makes samples of dialogues with it.

    Raises SettingsError for a base without a template where its own is asked for, ArtifactError for one that does not
    tell where answers begin and end.
    """
    tokenizer = open_text_tokenizer(base.folder, base.spec.control_tokens).tokenizer
    template, found = choose_format(base, tokenizer, settings.chat_template)
    ids = fim.resolve(base.spec, tokenizer.token_to_id, where=str(base.folder / "tokenizer.json"))
    sampler = ChatSampler(found, ids.end_of_text, _length(base, settings), settings.seed)
    sampler.cut(chat.TRIAL)
    return template, sampler


def _length(base: Base, settings: TrainSettings) -> int:
    return min(settings.sequence_length, base.facts.context_size)


def _counted(documents: Iterable[T], progress: Progress) -> Iterator[T]:
    """The documents, each told when it has been dealt with."""
    for document in documents:
        yield document
        progress.advance()


def _told(split: str, found: Survey) -> list[str]:
    """A split of dialogues in words."""
    shown = [
        f"{split}: {found.dialogues:,} dialogues with {found.answers:,} answers, "
        f"{found.predicted:,} of {found.tokens:,} tokens to predict"
    ]
    shown += [f"{count:,} of them are left out: {reason}" for reason, count in found.refused.most_common()]
    if found.lost_tokens:
        shown.append(
            f"{found.shortened:,} answers are cut at the end of the sequence and {found.left_out:,} have no room in "
            f"it, {found.lost_tokens:,} tokens in all (--sequence-length)"
        )
    return shown
