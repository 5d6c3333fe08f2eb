"""A prompt whose last token was only the beginning of another is written on as if it had not been cut there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models

from serve.backends.native import Native
from serve.bundle import Bundle
from serve.completer import Completer
from serve.engine.engine import Engine, Statistics
from serve.engine.sampling import Sampling
from serve.healing import Healer
from serve.requests import CompletionRequest
from tests.serve.conftest import runner_for
from tests.serve.scripted import ScriptedRunner, any_tokens

WHOLE = "def add(a, b):\n    return a + b\n\n\ndef encode(text):\n    return bundle.tokenizer.encode(text)\n"
code = st.text(st.sampled_from("abret ur(n)\n\t=.é漢"), min_size=1, max_size=30)


def ids(bundle: Bundle, text: str) -> list[int]:
    found: list[int] = bundle.tokenizer.encode(text, add_special_tokens=False).ids
    return found


class Reader:
    """A model that knows one text, in the tokens that the tokenizer makes of the whole, and nothing else."""

    def __init__(self, bundle: Bundle, whole: str) -> None:
        self.ids, self.end = ids(bundle, whole), bundle.ids.end_of_text

    def __call__(self, held: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        logits = np.zeros(vocab_size, np.float32)
        known = [at for at in range(1, len(self.ids)) if list(held[-at:]) == self.ids[:at]]
        logits[self.end if not known else self.ids[known[-1]] if known[-1] < len(self.ids) else self.end] = 30
        return logits


def completed(bundle: Bundle, prefix: str, *, raw: bool = False, healing: bool = True, **asked: int) -> str:
    runner = ScriptedRunner(bundle.tokenizer.get_vocab_size(), Reader(bundle, WHOLE), bundle.context_size)
    completer = Completer(bundle, Native(Engine(runner, 16), bundle), pipeline=(), healing=healing)
    return completer.complete(CompletionRequest(prefix, raw=raw, **asked)).text


def cuts(bundle: Bundle) -> list[int]:
    """Places within a token of the whole text that leave a single token of it behind those before."""
    found = []
    for start, end in bundle.tokenizer.encode(WHOLE, add_special_tokens=False).offsets[1:]:
        head = ids(bundle, WHOLE[:start])
        found += [cut for cut in range(start + 1, end) if ids(bundle, WHOLE[:cut])[:-1] == head]
    return found


def test_a_text_goes_on_from_within_a_token(bundle: Bundle) -> None:
    inside = cuts(bundle)
    assert len(inside) > 10
    for cut in inside:
        written = completed(bundle, WHOLE[:cut], max_tokens=4)
        assert written
        assert WHOLE[cut:].startswith(written)
    # Without it the model, which knows the text in its own tokens alone, is lost at most of these places.
    lost = sum(not completed(bundle, WHOLE[:cut], healing=False, max_tokens=4) for cut in inside)
    assert lost > len(inside) / 2


def test_raw_text_is_taken_as_it_stands(bundle: Bundle) -> None:
    lost = [cut for cut in cuts(bundle) if not completed(bundle, WHOLE[:cut], raw=True, max_tokens=4)]
    assert lost
    assert all(completed(bundle, WHOLE[:cut], raw=False, max_tokens=4) for cut in lost)


@settings(max_examples=80, deadline=None)
@given(prefix=code, temperature=st.sampled_from([0.0, 1.0]), penalty=st.sampled_from([1.0, 1.3]))
def test_what_any_model_writes_begins_behind_the_cursor(
    bundle: Bundle, prefix: str, temperature: float, penalty: float
) -> None:
    runner = runner_for(bundle, any_tokens)
    native, prompt = Native(Engine(runner, 16), bundle), ids(bundle, prefix)
    sampling = Sampling(temperature, seed=1, repetition_penalty=penalty)
    count = Statistics()
    text = "".join(native.generate(prompt, sampling, 6, lambda: False, count, heal=True))
    split = Healer(bundle.tokenizer).split(prompt)
    begun = len(split[0]) if split else len(prompt)
    written = bundle.tokenizer.decode(runner.held[begun:], skip_special_tokens=True)
    assert count.generated <= 6
    if split:
        assert written.startswith(split[1].text)
        assert bundle.tokenizer.decode([*split[0], *ids(bundle, split[1].text)]) == prefix
        written = written.removeprefix(split[1].text)
    # The last token is never computed, so the runner holds one fewer.
    assert text.startswith(written.rstrip("\ufffd"))


def test_the_bytes_of_every_token_are_those_it_decodes_to(bundle: Bundle) -> None:
    healer, tokenizer = Healer(bundle.tokenizer), bundle.tokenizer
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([token], skip_special_tokens=True)
        if "\ufffd" not in text and text:
            assert healer.bytes_of(token) == text.encode()


def test_which_tokens_fit(bundle: Bundle) -> None:
    healer, tokenizer = Healer(bundle.tokenizer), bundle.tokenizer
    words = {token: tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size())}
    controls = set(tokenizer.get_added_tokens_decoder())
    for text in (" ", " re", "ret", "(", "\n    "):
        wanted = {
            token
            for token, word in words.items()
            if token not in controls and word and (word.startswith(text) or text.startswith(word))
        }
        assert set(healer.fitting(text.encode())) == wanted


def test_nothing_is_healed_where_nothing_is_gained(bundle: Bundle) -> None:
    healer = Healer(bundle.tokenizer)
    assert healer.split(ids(bundle, "def f(")[:1]) is None, "one token has nothing before it"
    assert healer.split([5, bundle.ids.middle]) is None, "a control token"
    assert healer.split([5, *ids(bundle, "漢")]) is None, "a part of a character"


def test_a_tokenizer_of_another_kind_is_left_alone() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "ab": 1, "b": 2}, [("a", "b")]))
    tokenizer.decoder = decoders.Metaspace()
    assert Healer(tokenizer).split([1, 0]) is None


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_tokens_are_counted_than_were_asked_for(bundle: Bundle, most: int) -> None:
    runner = runner_for(bundle, any_tokens)
    done = Completer(bundle, Native(Engine(runner, 16), bundle), pipeline=()).complete(
        CompletionRequest("def f():\n    re", "\n", max_tokens=most)
    )
    assert done.statistics.generated <= most
