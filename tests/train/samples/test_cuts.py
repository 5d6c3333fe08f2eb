"""Cuts by lines and syntax, and other files of a repository before a chunk."""

from __future__ import annotations

import ast
import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.tiny import LORA, TRAIN, library_texts, opened, without
from toolchain.contracts import fim
from toolchain.contracts.errors import MissingExtra, SettingsError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.bases.tokenization import open_text_tokenizer
from train.fine_tune import plan_train
from train.samples.cuts import GRAMMARS, AroundNodes, between_lines, parser_of
from train.samples.fim import Sampler
from train.samples.packing import collate
from train.samples.repository import RepositoryContext
from train.samples.sample import Sample
from train.samples.stream import BatchStream
from train.settings import LEAST_CONTEXT

pytestmark = pytest.mark.train

TEXTS = library_texts(TRAIN)
SEPARATOR = 4  # a control token, which no text is encoded as


@pytest.fixture(scope="module")
def sampler(base_folder: Path) -> Sampler:
    tokenizer = open_text_tokenizer(base_folder, fim.STARCODER.control_tokens)
    ids = fim.resolve(fim.STARCODER, tokenizer.tokenizer.token_to_id)
    return Sampler(tokenizer, ids, ("psm", "spm"), 128, 1.0, 0.5, 3)


@pytest.fixture(scope="module")
def context(sampler: Sampler) -> RepositoryContext:
    paths = [f"src/{number}.py" for number in range(len(TEXTS))]
    repositories = ["one"] * (len(TEXTS) - 1) + ["other"]
    return RepositoryContext(repositories, paths, TEXTS, sampler.tokenizer, SEPARATOR, 60)


def test_middles_are_whole_lines() -> None:
    for seed in range(200):
        text = TEXTS[seed % len(TEXTS)]
        begin, end = between_lines(text, 0, random.Random(seed))
        assert begin < end
        assert begin == 0 or text[begin - 1] == "\n"
        assert text[end - 1] == "\n" or end == len(text)
    begin, end = between_lines("one line", 0, random.Random(0))
    assert 0 <= begin <= end <= 8


def test_middles_are_nodes_that_python_itself_knows() -> None:
    pytest.importorskip("tree_sitter", reason="needs the syntax extra")
    cut = AroundNodes(["Python"] * len(TEXTS))
    source = "# ä 🎉\n" + TEXTS[0]
    known = set()
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.expr | ast.stmt):
            spans = ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
            known.add(tuple(len("".join(lines[: n - 1])) + len(lines[n - 1].encode()[:c].decode()) for n, c in spans))
    cuts = [cut(source, 0, random.Random(seed)) for seed in range(300)]
    assert all(0 <= begin < end <= len(source) for begin, end in cuts)
    # The two grammars name things differently: blocks, parameters, comments and pieces of strings are no nodes of ast.
    assert sum(span in known for span in cuts) > 0.4 * len(cuts)
    sizes = [end - begin for begin, end in cuts]
    assert min(sizes) < 20
    assert max(sizes) > 500


@pytest.mark.parametrize("language", GRAMMARS)
def test_every_grammar_loads_and_parses(language: str) -> None:
    pytest.importorskip("tree_sitter", reason="needs the syntax extra")
    parser = parser_of(language)
    assert parser is not None
    assert parser.parse(b"x = 1;\n").root_node.end_byte == 7


def test_a_language_without_a_grammar_is_cut_between_lines() -> None:
    cut = AroundNodes(["Prolog"])
    assert cut(TEXTS[0], 0, random.Random(1)) == between_lines(TEXTS[0], 0, random.Random(1))


@pytest.mark.parametrize("kind", ["lines", "syntax"])
def test_nothing_of_a_file_is_lost_whatever_the_cuts(sampler: Sampler, kind: str) -> None:
    if kind == "syntax":
        pytest.importorskip("tree_sitter", reason="needs the syntax extra")
    cut = between_lines if kind == "lines" else AroundNodes(["Python"] * len(TEXTS))
    for number, text in enumerate(TEXTS):
        samples = list(replace(sampler, cut=cut).samples(text, 0, number))
        assert sum(sample.text_bytes for sample in samples) == len(text.encode())
        assert all(len(sample.ids) <= sampler.length for sample in samples)
        assert sum(sample.order is not None for sample in samples) > 0.9 * len(samples)


def test_other_files_of_the_repository_stand_before_a_chunk(sampler: Sampler, context: RepositoryContext) -> None:
    with_context = replace(sampler, context=context)
    texts = [sampler.tokenizer.tokenizer.decode(sampler.tokenizer.encode(text)) for text in TEXTS]
    seen = set()
    for sample in with_context.samples(TEXTS[0], 0, 0):
        assert len(sample.ids) <= sampler.length
        assert sample.predicted is not None
        ((given, end),) = sample.predicted
        assert 0 < given <= context.tokens
        assert end == len(sample.ids)
        head = sample.ids[:given]
        assert head[0] == head[-1] == SEPARATOR
        files = [[]]  # type: list[list[int]]
        for token in head[1:-1]:
            files.append([]) if token == SEPARATOR else files[-1].append(token)
        for file in files:
            path, _, excerpt = sampler.tokenizer.tokenizer.decode(file).partition("\n")
            number = int(path.removeprefix("src/").removesuffix(".py"))
            assert 0 < number < len(TEXTS) - 1  # another file of the same repository
            assert excerpt.rstrip("\ufffd") in texts[number]
            seen.add(number)
    assert len(seen) == len(TEXTS) - 2
    # The only file of its repository has nothing before it.
    assert {sample.predicted for sample in with_context.samples(TEXTS[-1], 0, len(TEXTS) - 1)} == {None}
    assert list(with_context.samples(TEXTS[0], 1, 0)) != list(with_context.samples(TEXTS[0], 0, 0))
    assert list(with_context.samples(TEXTS[0], 0, 0)) == list(with_context.samples(TEXTS[0], 0, 0))


def test_files_share_the_room_and_a_short_one_leaves_its_own_to_others(sampler: Sampler) -> None:
    texts = ["def here():\n    pass\n", "x = 1\n", TEXTS[0], TEXTS[1]]
    paths = [f"{number}.py" for number in range(len(texts))]
    context = RepositoryContext(["one"] * len(texts), paths, texts, sampler.tokenizer, SEPARATOR, 240)
    whole = len(sampler.tokenizer.encode("1.py\nx = 1\n"))
    counts = set()
    for seed in range(60):
        ids = context.before(0, random.Random(seed))
        edges = [at for at, token in enumerate(ids) if token == SEPARATOR]
        sizes = [end - begin - 1 for begin, end in itertools.pairwise(edges)]
        counts.add(len(sizes))
        short = [size for size in sizes if size == whole]
        long = [size for size in sizes if size > whole]
        assert len(short) <= 1
        assert len(ids) == 1 + len(sizes) + sum(sizes) <= 240
        assert min(long, default=240) > 240 // len(sizes) - 6  # less the separators and rounding
        if short and sizes[-1] != whole:
            assert len(ids) > 240 - 4  # nothing of the room is lost
    assert counts == {1, 2, 3}
    narrow = replace(context, tokens=LEAST_CONTEXT - 1)
    assert narrow.before(0, random.Random(0)) == []


def test_what_is_given_is_not_predicted(sampler: Sampler, context: RepositoryContext) -> None:
    sample = Sample([5, 6, 7, 8, 9], 1, None, [[3, 5]])
    batch = collate([[Sample([1, 2], 1, None), sample]], padding=0)
    assert batch.targets.tolist() == [[2, -100, -100, -100, 8, 9, -100]]
    stream = BatchStream(TEXTS, replace(sampler, context=context), 4)
    plain = BatchStream(TEXTS, sampler, 4)
    assert stream.next().predicted < 0.8 * plain.next().predicted


def test_context_for_a_base_without_a_separator_is_refused(dataset: Path, base_folder: Path) -> None:
    with pytest.raises(SettingsError, match="needs a base that was trained with a file separator"):
        plan_train(dataset, opened(base_folder), replace(LORA, repository_context=64))


def test_context_too_small_to_hold_a_file_is_refused() -> None:
    with pytest.raises(SettingsError, match="--repository-context cannot be 33") as caught:
        replace(LORA, repository_context=LEAST_CONTEXT - 1, sequence_length=128)
    assert caught.value.next_step == "Use 0, or from 34 to 64, half of the sequence."
    with pytest.raises(SettingsError) as caught:
        replace(LORA, repository_context=LEAST_CONTEXT, sequence_length=64)
    assert caught.value.next_step == "Use 0."


def test_syntax_without_its_extra_is_refused(dataset: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "tree_sitter_rust")
    with pytest.raises(MissingExtra, match="tree_sitter_rust is not installed"):
        plan_train(dataset, opened(base_folder), replace(LORA, cuts="syntax"))


@pytest.mark.parametrize("kind", ["lines", "syntax"])
def test_a_training_with_such_cuts_lowers_the_same_held_out_loss(
    dataset: Path, base_folder: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "syntax":
        pytest.importorskip("tree_sitter", reason="needs the syntax extra")
    made = execute(plan_train(dataset, opened(base_folder), replace(LORA, cuts=kind)), tmp_path / "out", Silent())
    plain = execute(
        plan_train(dataset, opened(base_folder), replace(LORA, max_steps=1, warmup_steps=1)), tmp_path / "two", Silent()
    )
    start, end = made.facts["held_out"]["start"], made.facts["held_out"]["end"]
    assert end["loss"] < start["loss"] - 0.03
    assert start == plain.facts["held_out"]["start"]


def test_a_training_with_repository_context_runs_with_a_base_that_has_a_separator(
    dataset: Path, tmp_path: Path
) -> None:
    from tests.train.tiny import SHAPE, write_base

    folder = write_base(tmp_path / "base", shape=replace(SHAPE, context_size=256))
    base = opened(folder)
    # Two letters of its vocabulary stand in for the tokens that StarCoder2 has.
    base = replace(base, spec=replace(base.spec, file_separator="~", repository_name="`"))
    settings = replace(LORA, repository_context=64, sequence_length=192)
    made = execute(plan_train(dataset, base, settings), tmp_path / "out", Silent())
    assert made.facts["held_out"]["end"]["loss"] < made.facts["held_out"]["start"]["loss"] - 0.02
