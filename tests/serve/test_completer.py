"""From a request to a completion, without HTTP: as `fimble complete` does it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.bundle import Bundle
from serve.completer import Completer
from serve.engine.sampling import Sampling
from serve.requests import Completion, CompletionRequest
from tests.serve.conftest import completer_for, saying
from tests.serve.scripted import any_tokens, repeats


def test_a_completion_with_its_cost(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "a + b"))
    request = CompletionRequest("return ", "\n")
    done = completer.complete(request)
    assert (done.text, done.finish) == ("a + b", "stop")
    assert done.statistics.reused == 0
    assert done.statistics.prefilled == done.prompt_tokens
    again = completer.complete(request)
    assert (again.text, again.statistics.reused) == ("a + b", done.prompt_tokens - 1)


def test_typing_on_computes_only_the_new_tokens(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "zzz"))
    before, after = "def add(a, b):\n    return", "\n\nprint(add(1, 2))\n"
    completer.complete(CompletionRequest(before, after))
    for typed in (" ", " a", " a +"):
        done = completer.complete(CompletionRequest(before + typed, after))
        assert done.statistics.prefilled <= 3


def test_the_end_tells_why(bundle: Bundle) -> None:
    x = bundle.tokenizer.encode("x").ids[0]
    completer, _ = completer_for(bundle, repeats(x))
    done = completer.complete(CompletionRequest("a", "b", max_tokens=5))
    assert (done.text, done.finish) == ("xxxxx", "length")
    done = completer.complete(CompletionRequest("a", "b", max_tokens=5, stop=("xxx",)))
    assert (done.text, done.finish) == ("", "stop")
    done = completer.complete(CompletionRequest("a", "b", max_tokens=5, stop=("xxxxx",)))
    assert (done.text, done.finish) == ("", "stop")
    asked = iter(range(100))
    done = completer.complete(CompletionRequest("a", "b"), lambda: next(asked) > 5)
    assert done.finish == "cancelled"
    assert 0 < len(done.text) < 8


def test_a_stop_string_that_did_not_come_is_text(bundle: Bundle) -> None:
    completer, _ = completer_for(bundle, saying(bundle, "a ++"))
    assert completer.complete(CompletionRequest("=", stop=("+++",))).text == "a ++"


def test_generation_ends_where_a_rule_knows_the_end(bundle: Bundle) -> None:
    wrote = "return a\n\n\n" + "def g():\n    return 1\n" * 2
    request = CompletionRequest("def f(a):\n    ", "\n")
    completer, _ = completer_for(bundle, saying(bundle, wrote))
    done = completer.complete(request)
    assert (done.text, done.finish) == ("return a", "stop")
    assert done.statistics.generated < len(bundle.tokenizer.encode(wrote).ids) / 2
    unruled = Completer(bundle, completer.backend, pipeline=())
    assert unruled.complete(request).text == wrote


def test_raw_text_is_left_alone(bundle: Bundle) -> None:
    wrote = "\n return a  \n\nb\nb\nb\n"
    completer, _ = completer_for(bundle, saying(bundle, wrote))
    slow = Completer(bundle, completer.backend, deadline_ms=0)
    assert slow.complete(CompletionRequest("def f(a):")).text == wrote
    assert slow.complete(CompletionRequest("def f(a):", "\n", raw=True)).text == wrote
    at_the_end_of_a_file = CompletionRequest("def f(a):", raw=False)
    assert completer.complete(at_the_end_of_a_file).text == "\n return a"


def test_the_deadline_gives_what_there_is(bundle: Bundle) -> None:
    completer, runner = completer_for(bundle, saying(bundle, "a = 1\nb = 2\n" + "c + " * 60))
    request = CompletionRequest("", "\n", max_tokens=100)
    assert completer.complete(replace(request, deadline_ms=0)).text == ""
    completer.complete(request)
    runner.seconds_a_call = 0.01
    done = completer.complete(replace(request, deadline_ms=300))
    assert (done.text, done.finish) == ("a = 1\nb = 2", "length")
    assert done.statistics.generated < 60


@settings(max_examples=60, deadline=None)
@given(
    before=st.text(max_size=600),
    after=st.text(max_size=600),
    max_tokens=st.integers(1, 512),
    temperature=st.sampled_from([0.0, 1.0]),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=3).map(tuple),
)
def test_any_request_fits_and_streams_what_it_completes(
    bundle: Bundle, before: str, after: str, max_tokens: int, temperature: float, stop: tuple[str, ...]
) -> None:
    sampling = Sampling(temperature, seed=1)
    request = CompletionRequest(before, after, max_tokens=max_tokens, sampling=sampling, stop=stop)
    pieces = list(completer_for(bundle, any_tokens)[0].stream(request))
    done = pieces.pop()
    assert isinstance(done, Completion)
    assert "".join(str(piece) for piece in pieces) == done.text
    assert completer_for(bundle, any_tokens)[0].complete(request).text == done.text
    assert done.prompt_tokens + done.statistics.generated <= bundle.context_size
    assert not any(name in done.text for name in ("<fim_", "<|endoftext|>"))
    assert not any(one in done.text for one in stop)


def test_a_model_with_a_separator_sees_other_files(bundle: Bundle, qwen_bundle: Bundle) -> None:
    request = CompletionRequest("a = ", "\n", extra=(("other.py", "def other():\n    pass\n"),))
    separator = qwen_bundle.tokenizer.token_to_id("<|file_sep|>")
    seen, _ = completer_for(qwen_bundle, any_tokens)[0].prompt(request)
    alone, _ = completer_for(qwen_bundle, any_tokens)[0].prompt(replace(request, extra=()))
    assert seen[0] == separator
    assert seen[-len(alone) :] == alone
    assert "def other" in qwen_bundle.tokenizer.decode(seen[: -len(alone)])
    # StarCoder's tokenizer has none.
    without = completer_for(bundle, any_tokens)[0]
    assert without.prompt(request) == without.prompt(replace(request, extra=()))
