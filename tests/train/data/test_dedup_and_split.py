from __future__ import annotations

import hashlib
import random

import pytest

from tests.train.data.repositories import module
from toolchain.contracts.errors import SourceError

pytestmark = pytest.mark.train
pytest.importorskip("rensa", reason="needs the train extra")

from train.data.dedup import EXACT, NEAR, Duplicates, signature_of
from train.data.split import heldout


def jaccard(left: bytes, right: bytes) -> float:
    """The similarity that signatures estimate, counted shingle by shingle."""

    def shingles(text):
        words = text.replace(b"(", b" ").replace(b")", b" ").replace(b",", b" ").replace(b":", b" ").split()
        return {tuple(words[n : n + 5]) for n in range(len(words) - 4)}

    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b)


def test_signatures_estimate_the_jaccard_similarity():
    generator = random.Random(0)
    words = [f"word{n}" for n in range(4000)]
    left = " ".join(words).encode()
    for changed in (20, 100, 300):
        other = list(words)
        for place in generator.sample(range(len(words)), changed):
            other[place] = "changed"
        right = " ".join(other).encode()
        estimate = float((signature_of(left) == signature_of(right)).mean())
        assert estimate == pytest.approx(jaccard(left, right), abs=0.12)


def test_signatures_never_change():
    # A new value here changes which files stay: then RECIPE in collect.py goes up.
    digest = hashlib.sha256(signature_of(module("fixed")).astype("<u4").tobytes()).hexdigest()
    assert digest == "9282fdf1640b89427e486397febf0ef95cb7375cc42967bfc1165cff1f7c0a5b"


def test_duplicates_are_told_in_order():
    text = module("a", 40)
    duplicates = Duplicates(0.85)
    assert duplicates.repeats(text) is None
    assert duplicates.repeats(text) == EXACT
    assert duplicates.repeats(text.replace(b"a_7_offset", b"renamed")) == NEAR
    assert duplicates.repeats(module("b", 40)) is None
    assert duplicates.repeats(b"x = 1\n") is None
    assert duplicates.repeats(b"x = 2\n") is None
    assert Duplicates(0).repeats(text) is None


def test_threshold_zero_still_finds_exact_ones():
    duplicates = Duplicates(0)
    text = module("a", 40)
    assert [duplicates.repeats(t) for t in (text, text + b"\n", text)] == [None, None, EXACT]


@pytest.mark.parametrize(("threshold", "alike", "unlike"), [(0.85, 0.92, 0.65), (0.6, 0.72, 0.35)])
def test_pairs_above_the_threshold_are_found_and_others_are_not(threshold, alike, unlike):
    generator = random.Random(1)

    def found(similarity: float) -> float:
        shared = 2000
        own = round(shared * (1 - similarity) / similarity / 2)
        count = 0
        for pair in range(40):
            texts = [
                " ".join(f"p{pair}w{n}" for n in range(shared)) + " " + " ".join(f"s{side}x{n}" for n in range(own))
                for side in (generator.random(), generator.random())
            ]
            assert jaccard(*(text.replace(".", "_").encode() for text in texts)) == pytest.approx(similarity, abs=0.02)
            duplicates = Duplicates(threshold)
            count += [duplicates.repeats(text.replace(".", "_").encode()) for text in texts] == [None, NEAR]
        return count / 40

    assert found(alike) >= 0.9
    assert found(unlike) == 0


def test_split_is_near_the_fraction_and_stable_as_files_come():
    files = [("repo", f"src/file{n}.py") for n in range(2000)]
    out = heldout(files, 0.05, "file")
    assert 60 < sum(out) < 140
    assert heldout([*files, ("repo", "another.py")], 0.05, "file")[:2000] == out
    assert heldout(files[::-1], 0.05, "file")[::-1] == out


@pytest.mark.parametrize("count", [2, 3, 10])
def test_both_sides_have_a_file(count):
    for fraction in (1e-9, 0.5):
        out = heldout([("repo", str(n)) for n in range(count)], fraction, "file")
        assert 1 <= sum(out) < count


def test_whole_repositories():
    files = [(f"repo{n % 4}", str(n)) for n in range(40)]
    out = heldout(files, 0.25, "repository")
    assert len({repository for (repository, _), held in zip(files, out, strict=True) if held}) >= 1
    for name in {repository for repository, _ in files}:
        assert len({held for (repository, _), held in zip(files, out, strict=True) if repository == name}) == 1
    with pytest.raises(SourceError, match="two"):
        heldout([("only", "a"), ("only", "b")], 0.25, "repository")


@pytest.mark.parametrize("files", [[], [("repo", "a.py")]])
def test_too_few_files(files):
    with pytest.raises(SourceError, match="needs two"):
        heldout(files, 0.05, "file")
