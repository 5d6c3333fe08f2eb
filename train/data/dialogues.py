"""Files of dialogues to a dataset of them: parquet shards for training and held out, with a card and the facts.

Files are hashed when the plan is made and read twice when it is written: once to decide what stays and on which side,
once to write it. A malformed line ends the work with its file and number; a dialogue that is well-formed and of no use
is left out and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain.contracts.chat.format import Message
from toolchain.contracts.errors import SourceError, StageError
from toolchain.contracts.manifest import Draft, sha256_of, write_text
from toolchain.contracts.progress import Progress
from toolchain.contracts.settings import to_json
from toolchain.contracts.stage import Plan
from train.data.card import dialogue_card
from train.data.dialogue_lines import ALTERNATING, parse
from train.data.redact import redact
from train.data.settings import DialogueSettings
from train.data.shards import DIALOGUES, DialogueRow, split_writer
from train.data.split import heldout_names
from train.samples.dataset import DIALOGUES as HOLDS

RECIPE = 1
UNEVEN, UNANSWERED, BLANK, REPEATED = "user and assistant do not alternate", "no answer", "blank message", "duplicate"
RULE = (
    "A dialogue is held out when the sha256 of its first user's message, as a fraction, is below {:g}; at least one is "
    "on each side. So dialogues that begin alike are on one side. Duplicates are removed before, across both sides."
)


@dataclass(frozen=True)
class _File:
    """A file under the name that the dataset has for it, with the hash of what it held when the plan was made."""

    path: Path
    name: str
    sha256: str


@dataclass
class _Survey:
    """What one reading found beside the dialogues themselves."""

    dropped: Counter[str]
    secrets: Counter[str]


def plan(paths: Sequence[Path], settings: DialogueSettings) -> Plan:
    """What the dataset made from the files at `paths` would be; their order makes no difference.

    Raises SourceError for a file that cannot be read.
    """
    files = _open_all(paths)

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        _write(files, settings, draft, progress)

    identities = [{"name": file.name, "sha256": file.sha256} for file in files]
    return Plan("dataset", RECIPE, (), {**to_json(settings), "holds": HOLDS, "sources": identities}, write)


def _open_all(paths: Sequence[Path]) -> list[_File]:
    if not paths:
        raise SourceError("no file of dialogues was named", "Name one or more files of JSON lines.")
    found = []
    for path in paths:
        try:
            found.append((path.name, sha256_of(path), path))
        except OSError as error:
            problem = f"{path} cannot be read ({error.strerror})"
            raise SourceError(problem, "Name files of dialogues, as JSON lines.") from None
    files: list[_File] = []
    taken: Counter[str] = Counter()
    for name, digest, path in sorted(set(found)):
        taken[name] += 1
        files.append(_File(path, name if taken[name] == 1 else f"{name}-{taken[name]}", digest))
    return files


def _write(files: Sequence[_File], settings: DialogueSettings, draft: Draft, progress: Progress) -> None:
    progress.start("Reading dialogues")
    survey = _Survey(Counter(), Counter())
    openings: list[str] = []
    sizes: list[int] = []
    answers: list[int] = []
    sources: Counter[str] = Counter()
    for row in _dialogues(files, settings, survey):
        openings.append(_opening(row.messages))
        sizes.append(_size(row.messages))
        answers.append(_answers(row.messages))
        sources[row.source] += 1
        progress.advance(1, row.source)
    progress.finish()
    out = _held_out(openings, settings.heldout_fraction, survey.dropped)
    draft.facts |= _facts(files, sources, survey, settings) | {
        "dialogues": _by_split([1] * len(out), out),
        "answers": _by_split(answers, out),
        "bytes": _by_split(sizes, out),
    }
    train, held_out = ([size for size, held in zip(sizes, out, strict=True) if held == side] for side in (False, True))
    progress.start("Writing the dataset", len(out), "dialogues")
    folder = draft.path / "data"
    with (
        split_writer(folder, "train", train, DIALOGUES) as to_train,
        split_writer(folder, "heldout", held_out, DIALOGUES) as to_heldout,
    ):
        again = _dialogues(files, settings, _Survey(Counter(), Counter()))
        for row, size, held in zip(again, sizes, out, strict=True):
            (to_heldout if held else to_train).write(row, size)
            progress.advance(1, row.source)
    progress.finish()
    write_text(draft.path / "README.md", dialogue_card(draft.facts))


def _dialogues(files: Sequence[_File], settings: DialogueSettings, survey: _Survey) -> Iterator[DialogueRow]:
    """The dialogues that stay, in order. Raises SourceError for a bad line, StageError when a file has changed."""
    seen: set[bytes] = set()
    for file in files:
        for number, messages in _messages(file):
            if settings.redact_secrets:
                messages = [_redacted(message, survey.secrets) for message in messages]
            digest = hashlib.sha256(json.dumps([[m.role, m.content] for m in messages]).encode()).digest()
            if reason := _unfit(messages) or (REPEATED if digest in seen else None):
                survey.dropped[reason] += 1
                continue
            seen.add(digest)
            yield DialogueRow(file.name, number, tuple(messages))


def _messages(file: _File) -> Iterator[tuple[int, list[Message]]]:
    """Each line that is not empty, by its number."""
    digest = hashlib.sha256()
    with file.path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            digest.update(line)
            if not line.strip():
                continue
            try:
                yield number, parse(line)
            except ValueError as error:
                raise SourceError(f"{file.path}:{number}: {error}", "Mend or remove that line.") from None
    if digest.hexdigest() != file.sha256:
        raise StageError(f"{file.path} changed while it was read", "Run again.")


def _unfit(messages: Sequence[Message]) -> str | None:
    """Why a dialogue is of no use. One that is: a system message or none, then user and assistant in turns."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if any(message.role != ALTERNATING[number % 2] for number, message in enumerate(turns)):
        return UNEVEN
    if len(turns) < 2:
        return UNANSWERED
    return BLANK if any(not message.content.strip() for message in turns) else None


def _redacted(message: Message, secrets: Counter[str]) -> Message:
    text, found = redact(message.content)
    secrets.update(found)
    return replace(message, content=text)


def _held_out(openings: Sequence[str], fraction: float, dropped: Counter[str]) -> list[bool]:
    if len(set(openings)) < 2:
        reasons = "".join(f", {count} left out: {reason}" for reason, count in dropped.most_common())
        problem = f"the dataset needs two dialogues that begin otherwise, and has {len(set(openings))}{reasons}"
        raise SourceError(problem, "Name more files: one dialogue is trained on, and another measured with.")
    out = heldout_names(openings, fraction)
    return [opening in out for opening in openings]


def _opening(messages: Sequence[Message]) -> str:
    return next(message.content for message in messages if message.role == "user")


def _size(messages: Sequence[Message]) -> int:
    return sum(len(message.content.encode()) for message in messages)


def _answers(messages: Sequence[Message]) -> int:
    return sum(message.role == "assistant" for message in messages)


def _by_split(counts: Sequence[int], out: Sequence[bool]) -> dict[str, int]:
    held = sum(count for count, is_held in zip(counts, out, strict=True) if is_held)
    return {"train": sum(counts) - held, "heldout": held}


def _facts(
    files: Sequence[_File], sources: Counter[str], survey: _Survey, settings: DialogueSettings
) -> dict[str, Any]:
    return {
        "holds": HOLDS,
        "sources": [{"name": file.name, "sha256": file.sha256, "dialogues": sources[file.name]} for file in files],
        "dropped": dict(sorted(survey.dropped.items())),
        "secrets_redacted": dict(sorted(survey.secrets.items())),
        "split": {"rule": RULE.format(settings.heldout_fraction), "fraction": settings.heldout_fraction},
    }
