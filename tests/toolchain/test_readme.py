"""The README names only commands and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from toolchain.commands import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands


def mentioned() -> list[str]:
    """Every `fimble …` in the README's code, each as one line."""
    return sorted(set(re.findall(r"(?:^|`)(fimble [a-z]+[^`\n]*)", README, flags=re.MULTILINE)))


def test_the_readme_shows_commands() -> None:
    assert len(mentioned()) >= 8


@pytest.mark.parametrize("line", mentioned())
def test_command_and_options_exist(line: str) -> None:
    name = line.split()[1]
    assert name in COMMANDS
    known = {word for parameter in COMMANDS[name].params for word in [*parameter.opts, *parameter.secondary_opts]}
    for option in re.findall(r"--[a-z-]+", line):
        assert option in known | {"--help"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_says_what_it_is_for(name: str) -> None:
    assert COMMANDS[name].help
