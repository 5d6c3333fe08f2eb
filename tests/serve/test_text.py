"""Text that is streamed is the text of all tokens, up to the first stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.bundle import Bundle
from serve.text import Decoder, Stopper

some_text = st.text(st.sampled_from("abc \n\t(){}é漢🎉\u0301"), max_size=40)
stops = st.lists(st.text(st.sampled_from("abc \né漢"), min_size=1, max_size=4), max_size=4)


def stream(bundle: Bundle, ids: list[int], stop: list[str]) -> tuple[list[str], bool]:
    decoder, text = Decoder(bundle.tokenizer), Stopper(stop)
    pieces = []
    for token in ids:
        pieces.append(text.push(decoder.push(token)))
        if text.stopped:
            break
    return [*pieces, text.finish()], text.stopped


@given(text=some_text)
def test_pieces_add_up_to_the_text_and_no_piece_holds_half_a_character(bundle: Bundle, text: str) -> None:
    # One token a byte: the hardest case, and what a model does with characters that it seldom saw.
    alphabet = bundle.tokenizer.get_vocab()
    ids = [alphabet[symbol] for symbol in byte_symbols(text)]
    pieces, _ = stream(bundle, ids, [])
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


@given(ids=st.lists(st.integers(0, 400), max_size=40))
def test_any_tokens_stream_to_what_they_decode_to(bundle: Bundle, ids: list[int]) -> None:
    pieces, _ = stream(bundle, ids, [])
    whole = bundle.tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pieces) == whole.rstrip("\ufffd")


@given(text=some_text, stop=stops)
def test_nothing_of_a_stop_string_gets_out(bundle: Bundle, text: str, stop: list[str]) -> None:
    ids = [bundle.tokenizer.get_vocab()[symbol] for symbol in byte_symbols(text)]
    pieces, stopped = stream(bundle, ids, stop)
    given_out = "".join(pieces)
    # The stop string that is complete first ends the text, where it begins.
    ends = [(at + len(s), at) for s in stop if (at := text.find(s)) >= 0]
    assert stopped == bool(ends)
    if ends:
        first_end = min(ends)[0]
        assert given_out == text[: min(at for end, at in ends if end == first_end)]
    else:
        assert given_out == text


@given(text=some_text, stop=stops)
def test_stop_strings_that_span_tokens_are_found(bundle: Bundle, text: str, stop: list[str]) -> None:
    ids = bundle.tokenizer.encode(text, add_special_tokens=False).ids
    given_out = "".join(stream(bundle, ids, stop)[0])
    assert text.startswith(given_out)
    assert not any(s in given_out for s in stop)


def test_control_tokens_are_no_text(bundle: Bundle) -> None:
    ids = bundle.tokenizer.encode("a b", add_special_tokens=False).ids
    mixed = [bundle.ids.prefix, *ids, bundle.ids.middle, bundle.ids.end_of_text]
    assert "".join(stream(bundle, mixed, [])[0]) == "a b"


def test_a_character_that_never_ends_is_dropped(bundle: Bundle) -> None:
    ids = [bundle.tokenizer.get_vocab()[symbol] for symbol in byte_symbols("a漢")][:-1]
    assert "".join(stream(bundle, ids, [])[0]) == "a"


def byte_symbols(text: str) -> list[str]:
    """The symbols that byte-level BPE has for the bytes of `text`."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [symbols[byte] for byte in text.encode()]
