from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.tiny import HELD_OUT, TRAIN, library_texts, write_dataset
from toolchain.contracts import fim
from toolchain.contracts.errors import ArtifactError
from train.bases.tokenization import open_text_tokenizer
from train.samples.dataset import open_texts
from train.samples.fim import Sampler
from train.samples.packing import Batch
from train.samples.stream import BatchStream, Place, held_out_batches, tokens_in

pytestmark = pytest.mark.train

TEXTS = library_texts(TRAIN)


@pytest.fixture(scope="module")
def sampler(base_folder: Path) -> Sampler:
    tokenizer = open_text_tokenizer(base_folder, fim.STARCODER.control_tokens)
    ids = fim.resolve(fim.STARCODER, tokenizer.tokenizer.token_to_id)
    return Sampler(tokenizer, ids, ("psm", "spm"), 128, 0.5, 0.5, 3)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.ids, other.ids) and torch.equal(one.samples, other.samples)


def test_a_stream_goes_on_from_any_place_with_the_same_batches(sampler: Sampler) -> None:
    whole = BatchStream(TEXTS, sampler, 4)
    undisturbed = [whole.next() for _ in range(150)]
    assert whole.place().epoch > 0
    for steps in (0, 1, 7, 90):
        stopped = BatchStream(TEXTS, sampler, 4)
        for _ in range(steps):
            stopped.next()
        place = Place.from_json(json.loads(json.dumps(stopped.place().to_json())))
        resumed = BatchStream(TEXTS, sampler, 4)
        resumed.resume(place)
        assert all(same(resumed.next(), batch) for batch in undisturbed[steps : steps + 50])


def test_a_place_is_not_changed_by_what_the_stream_does_later(sampler: Sampler) -> None:
    stream = BatchStream(TEXTS, sampler, 4)
    place = stream.place()
    before = json.dumps(place.to_json())
    for _ in range(20):
        stream.next()
    assert json.dumps(place.to_json()) == before


def test_an_epoch_reads_every_file_once(sampler: Sampler) -> None:
    files = [f"# file {number}\n" for number in range(40)]
    stream = BatchStream(files, replace(sampler, fim_rate=0.0), 1)
    seen = ""
    while stream.place().epoch < 30:
        seen += sampler.tokenizer.tokenizer.decode(stream.next().ids.flatten().tolist(), skip_special_tokens=True)
    waiting = [sampler.tokenizer.tokenizer.decode(s.ids) for row in stream.place().open for s in row]
    seen += "".join(waiting) + "".join(files)  # so that every file has been read as often
    assert {seen.count(file) for file in files} <= {31, 32}


def test_a_large_file_does_not_fill_batches_with_itself(sampler: Sampler) -> None:
    small = [f"small = {number}\n" * 20 for number in range(30)]
    stream = BatchStream(["large = 1\n" * 4000, *small], replace(sampler, fim_rate=0.0), 8)
    decoded = "".join(sampler.tokenizer.tokenizer.decode(row) for row in stream.next().ids.tolist())
    assert decoded.count("small") > decoded.count("large")


def test_held_out_batches_are_the_same_at_every_call_and_no_more_than_asked(sampler: Sampler) -> None:
    texts = library_texts(HELD_OUT)
    one, other = (held_out_batches(texts, sampler, 4, 10) for _ in range(2))
    assert all(same(*pair) for pair in zip(one, other, strict=True))
    assert sum(len(batch.ids) for batch in one) == 10
    everything = held_out_batches(texts, sampler, 4, 10_000)
    assert sum(batch.text_bytes for batch in everything) == sum(len(text.encode()) for text in texts)


def test_the_count_of_tokens_is_close(sampler: Sampler) -> None:
    exact = sum(len(sampler.tokenizer.encode(text)) for text in TEXTS)
    assert tokens_in(TEXTS, sampler) == exact
    assert tokens_in(TEXTS, sampler, files=3) == pytest.approx(exact, rel=0.2)


def test_a_dataset_is_read_without_running_anything_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset(tmp_path / "data", ["x = 1\n", "y = 2\n"], ["z = 3\n"])
    (folder / "data.py").write_text("raise SystemExit('this ran')")
    (folder / "README.md").write_text("---\nconfigs: nonsense\n---\n")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    assert list(open_texts(folder, "train", tmp_path / "cache")) == ["x = 1\n", "y = 2\n"]
    assert list(open_texts(folder, "heldout", tmp_path / "cache")) == ["z = 3\n"]


def test_a_damaged_dataset_is_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", ["x = 1\n" * 1000], [""])
    with pytest.raises(ArtifactError, match=r"heldout split of .* holds no text"):
        open_texts(folder, "heldout", tmp_path / "cache")
    (shard,) = (folder / "data").glob("train-*")
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(ArtifactError, match=r"train split of .* cannot be read"):
        open_texts(folder, "train", tmp_path / "cache")
    shard.unlink()
    with pytest.raises(ArtifactError, match="has no data/train"):
        open_texts(folder, "train", tmp_path / "cache")
