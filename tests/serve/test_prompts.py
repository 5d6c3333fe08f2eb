"""FIM prompts: what comes apart, what is built, and what of it is control."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.bundle import Bundle
from serve.prompts import build, take_apart
from toolchain.contracts.fim import QWEN_CODER, STARCODER, STARCODER2

P, S, M = STARCODER.prefix, STARCODER.suffix, STARCODER.middle
code = st.text(st.sampled_from("ab =\n\t():é漢🎉"), max_size=80)
nasty = st.lists(st.sampled_from(["x = 1\n", P, S, M, "<|endoftext|>", " ", "é"]), max_size=8).map("".join)


@given(code, code)
def test_what_the_editor_joins_comes_apart(prefix: str, suffix: str) -> None:
    assert take_apart(f"{P}{prefix}{S}{suffix}{M}", STARCODER) == (prefix, suffix, ())


@given(nasty, code)
def test_control_tokens_in_the_text_before_the_cursor_stay_text(prefix: str, suffix: str) -> None:
    assert take_apart(f"{P}{prefix}{S}{suffix}{M}", STARCODER) == (prefix, suffix, ())


@pytest.mark.parametrize(
    "prompt", ["", "def f():", f"{P}a{S}b", f"a{S}b{M}", f"{P}a{M}", f" {P}a{S}b{M}", f"{P}a{S}b{M}\n", M, P, f"{P}{M}"]
)
def test_other_text_is_no_fim_prompt(prompt: str) -> None:
    assert take_apart(prompt, STARCODER) is None


def test_other_files_before_the_first_token_are_files() -> None:
    repository = (
        "<|repo_name|>shop\n<|file_sep|>cart.py\nclass Cart:\n    pass\n\n<|file_sep|>lines.py\nx = 1\n"
        "<|file_sep|>main.py\n<|fim_prefix|>cart = <|fim_suffix|>\n<|fim_middle|>"
    )
    files = (("cart.py", "class Cart:\n    pass\n"), ("lines.py", "x = 1\n"))
    assert take_apart(repository, QWEN_CODER) == ("cart = ", "\n", files)
    nameless = f"<file_sep>x = 1\ny = 2\n<file_sep>z = 3<file_sep>{P}a{S}b{M}"
    assert take_apart(nameless, STARCODER2) == ("a", "b", (("x = 1", "y = 2\n"), ("z = 3", "\n")))
    assert take_apart(f"# more\n{repository}", QWEN_CODER) is None


def test_tokens_of_another_family_are_an_editors_that_does_not_know_the_model() -> None:
    assert take_apart(f"{P}a{S}b{M}", QWEN_CODER) == ("a", "b", ())
    assert take_apart("<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", STARCODER) == ("a", "b", ())
    own = f"{P}a<|fim_suffix|>{S}b{M}"
    assert take_apart(own, STARCODER) == ("a<|fim_suffix|>", "b", ())


def prompt_of(bundle: Bundle, prefix: str, suffix: str, room: int = 200) -> list[int]:
    return build(prefix, suffix, bundle.tokenizer, bundle.spec, bundle.ids, room)


def test_the_order_is_the_one_that_the_model_is_served_in(bundle: Bundle, qwen_bundle: Bundle) -> None:
    for one, order in ((bundle, "spm"), (qwen_bundle, "psm")):
        before, after = (one.tokenizer.encode(text).ids for text in ("def f(", "):\n"))
        ids = one.ids
        wanted = {
            "spm": [ids.prefix, ids.suffix, *after, ids.middle, *before],
            "psm": [ids.prefix, *before, ids.suffix, *after, ids.middle],
        }
        assert prompt_of(one, "def f(", "):\n") == wanted[order]


def test_nothing_after_the_cursor_is_plain_text(bundle: Bundle, ids_of: Callable[[str], list[int]]) -> None:
    assert prompt_of(bundle, "def f(", "") == ids_of("def f(")


def test_nothing_at_all_begins_a_document(bundle: Bundle) -> None:
    assert prompt_of(bundle, "", "") == [bundle.ids.end_of_text]


@pytest.mark.parametrize("fixture", ["bundle", "qwen_bundle"])
def test_control_tokens_in_source_are_text(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    text = "".join(bundle.spec.control_tokens)
    ids = prompt_of(bundle, text, text)
    assert sum(token in bundle.end_ids for token in ids) == 3
    plain = prompt_of(bundle, text, "")
    assert not bundle.end_ids.intersection(plain)
    assert bundle.tokenizer.decode(plain, skip_special_tokens=True) == text


@settings(deadline=None)
@given(prefix=code, suffix=code, room=st.integers(4, 60))
def test_a_prompt_never_exceeds_its_room_and_keeps_what_is_near_the_cursor(
    bundle: Bundle, prefix: str, suffix: str, room: int
) -> None:
    prompt = prompt_of(bundle, prefix, suffix, room)
    assert 0 < len(prompt) <= room
    if not suffix:
        assert prefix.endswith(decode(bundle, prompt)) or not prefix
        return
    at = prompt.index(bundle.ids.middle)
    after, before = decode(bundle, prompt[2:at]), decode(bundle, prompt[at + 1 :])
    # Never half of a character, and nothing missing between the text and the cursor.
    assert prefix.endswith(before)
    assert suffix.startswith(after)
    assert len(bundle.tokenizer.encode(prefix).ids + bundle.tokenizer.encode(suffix).ids) > room - 3 or (
        before,
        after,
    ) == (prefix, suffix)


def test_long_text_is_cut_at_lines(bundle: Bundle) -> None:
    lines = "".join(f"value_{n} = compute({n})\n" for n in range(200))
    prompt = prompt_of(bundle, lines + "x = ", lines, 400)
    at = prompt.index(bundle.ids.middle)
    after, before = decode(bundle, prompt[2:at]), decode(bundle, prompt[at + 1 :])
    assert before.startswith("value_")
    assert before.endswith("x = ")
    assert after.endswith("\n")
    assert len(prompt) > 350


def test_a_line_longer_than_the_room_is_cut_within(bundle: Bundle) -> None:
    prompt = prompt_of(bundle, "x" * 5000 + "\ny = ", "z" * 5000, 60)
    assert 40 < len(prompt) <= 60
    assert decode(bundle, prompt[prompt.index(bundle.ids.middle) + 1 :]).endswith("y = ")


def test_a_megabyte_costs_no_more_than_what_fits(bundle: Bundle) -> None:
    assert len(prompt_of(bundle, "é" * 1_000_000, "漢" * 1_000_000, 100)) <= 100


def decode(bundle: Bundle, ids: list[int]) -> str:
    text: str = bundle.tokenizer.decode(ids, skip_special_tokens=False)
    return text
