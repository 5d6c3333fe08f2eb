"""docs/compile.md names what compiling knows."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from compile.generation import VALUES
from compile.schemes import SCHEMES
from compile.settings import CompileSettings
from toolchain.contracts import processors, settings, targets

pytestmark = pytest.mark.compile
PAGE = (Path(__file__).parents[2] / "docs" / "compile.md").read_text(encoding="utf-8")


def names_in_the_first_column_of(section: str) -> list[str]:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [
        name for cell in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE) for name in re.findall(r"`(.*?)`", cell)
    ]


def test_every_flag_is_in_the_command_line() -> None:
    line = PAGE.partition("```\n")[2].partition("```")[0]
    flags = {settings.flag(field.name) for field in fields(CompileSettings)}
    assert set(re.findall(r"--[a-z-]+", line)) == flags | {"--out"}


def test_every_scheme_is_documented() -> None:
    rows = [name for name in names_in_the_first_column_of("Schemes") if not name.startswith("--")]
    assert rows == list(SCHEMES)
    told = settings.documentation(CompileSettings)["quantization"]
    assert re.findall(r"q\df\d+\w*", told) == list(SCHEMES)


def test_every_target_is_documented() -> None:
    assert {"cpu", *processors.LEVELS, *targets.GPUS} <= set(names_in_the_first_column_of("Targets"))


def test_every_value_of_generation_is_documented_with_its_default() -> None:
    section = PAGE.partition("\n## Generation\n")[2].partition("\n## ")[0]
    shown = {}
    for names, default in re.findall(r"((?:`\w+`(?:,|\s|and)*)+)\(([\d.]+)\)", section):
        shown |= dict.fromkeys(re.findall(r"`(\w+)`", names), float(default))
    assert shown == {name: value.default for name, value in VALUES.items()}
