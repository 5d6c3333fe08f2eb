"""Whose turn it is when many wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serve.bundle import Bundle
from serve.metrics import Metrics
from serve.requests import CompletionRequest
from serve.scheduler import KEYSTROKE_SECONDS, LONGEST_WAIT_SECONDS, Scheduler
from tests.serve.conftest import completer_for
from tests.serve.scripted import repeats

QUIET, TYPING, LONG = KEYSTROKE_SECONDS, -60.0, LONGEST_WAIT_SECONDS


async def order(bundle: Bundle, ages: Sequence[float]) -> str:
    """In what order turns end that have waited for so many seconds, behind the first, which runs."""
    completer, runner = completer_for(bundle, repeats(bundle.tokenizer.encode("x").ids[0]))
    runner.seconds_a_call = 0.02
    queue, ended = Scheduler(completer, 16, True, Metrics(int, int)), []

    async def ask(name: str, age: float) -> None:
        turn = queue.enter(name, CompletionRequest("a", max_tokens=4))
        turn.arrived -= age
        await turn.completion()
        ended.append(name)

    await asyncio.gather(*(ask(name, age) for name, age in zip("abcd", (0, *ages), strict=True)))
    return "".join(ended)


@pytest.mark.parametrize(
    ("ages", "wanted"),
    [
        ((QUIET + 2, QUIET + 1, QUIET), "adcb"),
        ((QUIET + 1, QUIET, TYPING), "acbd"),
        ((TYPING, TYPING, TYPING), "abcd"),
        ((LONG + 1, LONG, QUIET), "abcd"),
    ],
)
def test_the_last_who_is_not_typing_comes_first_but_nobody_waits_too_long(
    bundle: Bundle, ages: Sequence[float], wanted: str
) -> None:
    assert asyncio.run(order(bundle, ages)) == wanted
