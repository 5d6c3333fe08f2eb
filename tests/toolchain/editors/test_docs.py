"""docs/editors.md lists the editors that there are."""

from __future__ import annotations

import re
from pathlib import Path

from toolchain.contracts.editors.catalogue import EDITORS

PAGE = (Path(__file__).parents[3] / "docs" / "editors.md").read_text(encoding="utf-8")
HELP = (Path(__file__).parents[3] / "toolchain" / "setup_commands.py").read_text(encoding="utf-8")


def test_every_editor_is_listed_and_no_other() -> None:
    listed = re.findall(r"^\| `([a-z.]+)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(EDITORS)
    (told,) = re.findall(r'^NAMES = "(.*)\."$', HELP, flags=re.MULTILINE)
    assert re.split(", | or ", told) == list(EDITORS)
