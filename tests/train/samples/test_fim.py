"""From text to samples and back: nothing is lost, nothing in a user's text becomes a control token."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.tiny import TRAIN, library_texts
from toolchain.contracts import fim
from train.bases.tokenization import open_text_tokenizer
from train.samples.fim import Sampler, parts
from train.samples.sample import Sample

pytestmark = pytest.mark.train

CODE = library_texts(TRAIN)
NASTY = "def f():\n\treturn '<fim_prefix>x<fim_middle><|endoftext|><fim_pad>é日本\U0001f600\r\n'   \n\n"


@pytest.fixture(scope="module")
def sampler(base_folder: Path) -> Sampler:
    tokenizer = open_text_tokenizer(base_folder, fim.STARCODER.control_tokens)
    ids = fim.resolve(fim.STARCODER, tokenizer.tokenizer.token_to_id)
    return Sampler(tokenizer, ids, ("psm", "spm"), 128, 0.5, 0.5, 0)


def text_of(sample: Sample, sampler: Sampler) -> str:
    """The text in a sample, its parts put back into the order of the file."""
    ids, control = list(sample.ids), sampler.ids
    if ids and ids[-1] == control.end_of_text:
        ids.pop()
    if sample.order is None:
        parts = [ids]
    else:
        assert ids[0] == control.prefix
        before_suffix, rest = split(ids[1:], control.suffix)
        if sample.order == "psm":
            suffix, middle = split(rest, control.middle)
            parts = [before_suffix, middle, suffix]
        else:
            assert before_suffix == []
            suffix, prefix_and_middle = split(rest, control.middle)
            parts = [prefix_and_middle, suffix]
    assert not control.control & set(itertools.chain(*parts))
    # Decoded as one byte string: a cut may fall where the tokens of a character meet.
    return "".join(decode(part, sampler) for part in parts)


def split(ids: list[int], at: int) -> tuple[list[int], list[int]]:
    assert ids.count(at) == 1
    return ids[: ids.index(at)], ids[ids.index(at) + 1 :]


def decode(ids: list[int], sampler: Sampler) -> str:
    text: str = sampler.tokenizer.tokenizer.decode(ids, skip_special_tokens=False)
    return text


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=900), epoch=st.integers(0, 5), rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_text_comes_back_from_the_ids_in_both_orders(sampler: Sampler, text: str, epoch: int, rate: float) -> None:
    one = replace(sampler, fim_rate=rate, length=64)
    samples = list(one.samples(text, epoch, 7))
    assert "".join(text_of(sample, one) for sample in samples) == text
    assert sum(sample.text_bytes for sample in samples) == len(text.encode())
    assert all(0 < len(sample.ids) <= 64 for sample in samples)
    if samples:
        assert samples[-1].ids[-1] == one.ids.end_of_text


def test_real_files_and_control_tokens_in_source_come_back_too(sampler: Sampler) -> None:
    for number, text in enumerate([*CODE, NASTY * 30]):
        samples = list(replace(sampler, fim_rate=1.0).samples(text, 0, number))
        assert "".join(text_of(sample, sampler) for sample in samples) == text
        assert all(sample.order for sample in samples if len(sample.ids) < 128)


def test_a_control_token_spelt_out_in_source_is_text(sampler: Sampler, tmp_path: Path) -> None:
    control = sampler.ids.control
    assert not control & set(sampler.tokenizer.encode(NASTY))
    assert decode(sampler.tokenizer.encode(NASTY), sampler) == NASTY
    # Nor when a tokenizer does not list it as special, as Qwen's does not.
    content = json.loads(sampler.tokenizer.tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    careless = open_text_tokenizer(tmp_path, ())
    careful = open_text_tokenizer(tmp_path, fim.STARCODER.control_tokens)
    assert control & set(careless.encode(NASTY))
    assert careful.encode(NASTY) == sampler.tokenizer.encode(NASTY)


def test_rates_and_orders(sampler: Sampler) -> None:
    wanted = replace(sampler, fim_rate=0.7, spm_rate=0.25)
    orders = [
        sample.order for epoch in range(12) for n, text in enumerate(CODE) for sample in wanted.samples(text, epoch, n)
    ]
    infilling = [order for order in orders if order]
    assert len(orders) > 1500
    assert len(infilling) / len(orders) == pytest.approx(0.7, abs=0.04)
    assert infilling.count("spm") / len(infilling) == pytest.approx(0.25, abs=0.04)
    only_psm = replace(sampler, orders=("psm",), spm_rate=1.0, fim_rate=1.0)
    assert {sample.order for sample in only_psm.samples(CODE[0], 0, 0)} <= {"psm", None}


def test_cuts_fall_inside_tokens(sampler: Sampler) -> None:
    text = CODE[0][:150]
    inside = 0
    for epoch in range(40):
        (sample,) = replace(sampler, fim_rate=1.0, length=256).samples(text, epoch, 0)
        whole = sampler.tokenizer.encode(text)
        ordinary = [token for token in sample.ids if token not in sampler.ids.control]
        inside += len(ordinary) > len(whole)
    assert inside > 20


def test_draws_depend_on_seed_epoch_document_and_chunk_alone(sampler: Sampler) -> None:
    def ids(one: Sampler, epoch: int, document: int) -> list[list[int]]:
        return [sample.ids for sample in one.samples(CODE[0], epoch, document)]

    assert ids(sampler, 0, 0) == ids(sampler, 0, 0)
    assert ids(sampler, 0, 0) != ids(sampler, 1, 0)
    assert ids(sampler, 0, 0) != ids(sampler, 0, 1)
    assert ids(sampler, 0, 0) != ids(replace(sampler, seed=1), 0, 0)


def test_chunks_are_as_long_as_asked_and_never_split_a_character() -> None:
    assert parts("abcdef", [0, 1, 2, 3, 4, 5], 4) == ["abcd", "ef"]
    assert parts("a日b", [0, 1, 1, 1, 2], 2) == ["a", "日", "b"]
    assert parts("", [], 4) == []
