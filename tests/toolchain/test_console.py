"""What reaches a terminal, and what is left of it when the work ends badly."""

from __future__ import annotations

import io

import pytest

from toolchain.console import console, waiting

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, None])
def test_the_cursor_comes_back_however_the_work_ends(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None
) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")

    def work() -> None:
        with console() as progress:
            progress.start("Reading", 3, "files")
            progress.advance()
            progress.start("Writing")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    text = screen.getvalue()
    assert HIDE in text
    assert text.rindex(SHOW) > text.rindex(HIDE)


@pytest.mark.parametrize("terminal", [True, False])
def test_waiting_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with waiting("reading the prompt"):
        pass
    assert ("reading the prompt" in screen.getvalue()) == terminal
    assert bool(screen.getvalue()) == terminal


def test_elsewhere_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console() as progress:
        progress.start("Reading", 3, "files")
        progress.advance()
        progress.say("one thing")
        progress.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Reading …", "one thing"]
    assert lines[2].startswith("Reading: done in ")


def test_a_table_of_what_is_known_now_stands_below_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console() as progress:
        progress.start("Training", 2, "steps")
        for loss in ("2.125", "1.875"):
            progress.table({"loss": loss, "tokens/s": "1,234"})
            progress.advance()
            progress.say(f"a line with {loss}")
        progress.finish()
        progress.table({"loss": "never shown"})
    text = screen.getvalue()
    assert text.index("a line with 2.125") < text.rindex("tokens/s") < text.rindex("1.875")
    assert "2/2" in text
    assert "never shown" not in text


def test_elsewhere_the_table_is_a_part_of_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("toolchain.console.PLAIN_EVERY_SECONDS", 0.0)
    with console() as progress:
        progress.start("Training", 2, "steps")
        progress.table({"loss": "2.125", "tokens/s": "1,234"})
        progress.advance()
    assert "Training: 1/2 steps loss 2.125, tokens/s 1,234" in capsys.readouterr().err
