"""What reaches a terminal, and what is left of it when the work ends badly."""

from __future__ import annotations

import io

import pytest

from toolchain.console import console

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


def test_elsewhere_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console() as progress:
        progress.start("Reading", 3, "files")
        progress.advance()
        progress.say("one thing")
        progress.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Reading …", "one thing"]
    assert lines[2].startswith("Reading: done in ")
