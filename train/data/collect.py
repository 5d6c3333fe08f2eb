"""Sources to a dataset: parquet shards for training and held out, with a card and the facts of how they came about.

Every source is pinned when the plan is made and read twice when it is written: once to decide what stays, once to
write it. So the texts are never all in memory; what is kept in between is a few hundred bytes a file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.contracts.errors import SourceError, StageError
from toolchain.contracts.manifest import Draft, write_text
from toolchain.contracts.progress import Progress
from toolchain.contracts.settings import to_json
from toolchain.contracts.stage import Plan
from train.data.card import card
from train.data.dedup import Duplicates
from train.data.entries import Entry, Source
from train.data.filters import Dropped, Kept, by_content, by_name, by_size, chooser
from train.data.licenses import METADATA, NONE, is_excluded, is_license_file, license_of
from train.data.settings import CollectSettings
from train.data.shards import Row, split_writer
from train.data.sources import open_source
from train.data.split import heldout, rule

RECIPE = 1


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A file that stays, by its place in the sources, with the hash of its clean text.

    A notebook is opened as such, and its language is that of its code.
    """

    source: int
    entry: Entry
    opened_as: str
    language: str
    size: int
    digest: bytes


@dataclass
class _Survey:
    """What the first reading found."""

    chosen: list[_Chosen] = field(default_factory=list)
    licenses: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    secrets: Counter[str] = field(default_factory=Counter)


def plan(sources: Sequence[str], settings: CollectSettings, cache: Path, progress: Progress) -> Plan:
    """Pin the sources, tell how, and say what the dataset made from them would be.

    Each source is a path to a Git repository (or a folder in one), a plain folder, or the address of a repository.
    The order in which they are named makes no difference. `cache` keeps fetched repositories and file hashes.
    Raises SourceError or SettingsError.
    """
    chooser(settings)  # a bad pattern is found before anything is read
    opened = _open_all(sources, cache, progress)
    for source in opened:
        progress.say(f"{source.name}: {source.note}")

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        _write(opened, settings, draft, progress)

    identities = [source.identity() for source in opened]
    return Plan("dataset", RECIPE, (), {**to_json(settings), "sources": identities}, write)


def _open_all(specs: Sequence[str], cache: Path, progress: Progress) -> list[Source]:
    if not specs:
        raise SourceError("no source was named", "Name a Git repository, a folder, or the address of a repository.")
    by_location = {source.location: source for source in (open_source(spec, cache, progress) for spec in specs)}
    opened = sorted(by_location.values(), key=lambda source: (source.name, source.location))
    taken: set[str] = set()
    for source in opened:
        name, number = source.name, 1
        while source.name in taken:  # two clones, or two projects of one name
            number += 1
            source.name = f"{name}-{number}"
        taken.add(source.name)
    return sorted(opened, key=lambda source: source.name)


def _write(sources: Sequence[Source], settings: CollectSettings, draft: Draft, progress: Progress) -> None:
    survey = _survey(sources, settings, progress)
    names = [(sources[file.source].name, file.entry.path) for file in survey.chosen]
    try:
        out = heldout(names, settings.heldout_fraction, settings.heldout_unit)
    except SourceError as error:
        reasons = ", ".join(f"{reason} {count}" for reason, count in survey.dropped.most_common(4))
        raise SourceError(f"{error.message}{f' (left out: {reasons})' if reasons else ''}", error.next_step) from None
    draft.facts.update(_facts(sources, survey, out, settings))
    _write_shards(sources, survey, out, settings, draft.path / "data", progress)
    write_text(draft.path / "README.md", card(draft.facts))


def _survey(sources: Sequence[Source], settings: CollectSettings, progress: Progress) -> _Survey:
    survey = _Survey()
    duplicates = Duplicates(settings.near_duplicate_threshold)
    chosen = chooser(settings)
    progress.start("Reading files", sum(len(source.entries) for source in sources), "files")
    for number, source in enumerate(sources):
        survey.dropped.update(source.skipped)
        license_name = _license(source)
        survey.licenses.append(license_name)
        excluded = is_excluded(license_name, settings.licenses_excluded)
        for entry in source.entries:
            progress.advance(1, source.name)
            language = by_name(entry.path, chosen)
            if isinstance(language, Dropped):
                survey.dropped[language.reason] += 1
                continue
            if excluded:
                survey.dropped["license excluded"] += 1
                continue
            verdict = _read(source, entry, language, settings)
            if isinstance(verdict, Dropped):
                survey.dropped[verdict.reason] += 1
                continue
            content = verdict.text.encode()
            repeats = duplicates.repeats(content)
            if repeats:
                survey.dropped[repeats] += 1
                continue
            survey.secrets.update(verdict.secrets)
            digest = hashlib.sha256(content).digest()
            survey.chosen.append(_Chosen(number, entry, language, verdict.language, len(content), digest))
    progress.finish()
    return survey


def _write_shards(
    sources: Sequence[Source],
    survey: _Survey,
    out: Sequence[bool],
    settings: CollectSettings,
    folder: Path,
    progress: Progress,
) -> None:
    train = [file.size for file, held in zip(survey.chosen, out, strict=True) if not held]
    held_out = [file.size for file, held in zip(survey.chosen, out, strict=True) if held]
    progress.start("Writing the dataset", len(out), "files")
    with split_writer(folder, "train", train) as to_train, split_writer(folder, "heldout", held_out) as to_heldout:
        for row, size, held in _rows(sources, survey, out, settings):
            (to_heldout if held else to_train).write(row, size)
            progress.advance(1, row.repository)
    progress.finish()


def _rows(
    sources: Sequence[Source], survey: _Survey, out: Sequence[bool], settings: CollectSettings
) -> Iterator[tuple[Row, int, bool]]:
    for file, held in zip(survey.chosen, out, strict=True):
        source = sources[file.source]
        verdict = _read(source, file.entry, file.opened_as, settings)
        if isinstance(verdict, Dropped) or hashlib.sha256(verdict.text.encode()).digest() != file.digest:
            raise StageError(f"{file.entry.path} in {source.name} changed while it was read", "Run again.")
        license_name = survey.licenses[file.source]
        row = Row(source.name, file.entry.path, source.pin, verdict.language, license_name, verdict.text)
        yield row, file.size, held


def _read(source: Source, entry: Entry, language: str, settings: CollectSettings) -> Kept | Dropped:
    too_large = by_size(entry.size, language, settings) if entry.size is not None else None
    return too_large or by_content(source.read(entry), language, settings)


def _license(source: Source) -> str:
    """By the files in the source's own root; else by those of the repository that it is a part of."""
    for root in source.roots:
        wanted = [entry for entry in root if is_license_file(entry.path) or entry.path in METADATA]
        found = license_of({e.path: source.read(e) for e in wanted if e.pin is not None})
        if found != NONE:
            return found
    return NONE


def _facts(
    sources: Sequence[Source], survey: _Survey, out: Sequence[bool], settings: CollectSettings
) -> dict[str, Any]:
    files: dict[str, int] = {"train": 0, "heldout": 0}
    sizes: dict[str, int] = {"train": 0, "heldout": 0}
    languages: dict[str, dict[str, int]] = {}
    repositories = [
        {**source.identity(), "license": license_name, "files": 0, "bytes": 0}
        for source, license_name in zip(sources, survey.licenses, strict=True)
    ]
    for file, held in zip(survey.chosen, out, strict=True):
        split = "heldout" if held else "train"
        files[split] += 1
        sizes[split] += file.size
        for counts in (repositories[file.source], languages.setdefault(file.language, {"files": 0, "bytes": 0})):
            counts["files"] += 1
            counts["bytes"] += file.size
    return {
        "repositories": repositories,
        "files": files,
        "bytes": sizes,
        "languages": {name: languages[name] for name in sorted(languages)},
        "dropped": {reason: survey.dropped[reason] for reason in sorted(survey.dropped)},
        "secrets_redacted": {kind: survey.secrets[kind] for kind in sorted(survey.secrets)},
        "split": {
            "rule": rule(settings.heldout_fraction, settings.heldout_unit),
            "fraction": settings.heldout_fraction,
            "unit": settings.heldout_unit,
        },
    }
