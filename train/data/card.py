"""The README of a dataset: what `datasets` needs to load it, and what a person wants to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEADER = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: heldout
    path: data/heldout-*.parquet
---
"""


def card(facts: Mapping[str, Any]) -> str:
    """The text of the README from the dataset's facts."""
    files, size = facts["files"], facts["bytes"]
    lines = [
        _HEADER,
        "# Source code for a personal copilot",
        "",
        f"{files['train']:,} files ({_mebibytes(size['train'])}) to train on and {files['heldout']:,} "
        f"({_mebibytes(size['heldout'])}) held out, collected by Fimble. "
        "Load it with `datasets.load_dataset(FOLDER)`.",
        "",
        "Columns: `repository`, `path`, `commit` (or the content hash of a plain folder), `language`, `license`, "
        "`content`. `manifest.json` holds the settings and all counts.",
        "",
        "## Where it comes from",
        "",
        *_table(
            ("repository", "version", "license", "files"),
            [
                (r["name"], f"{r['kind']} {(r.get('commit') or r['content'])[:12]}", r["license"], f"{r['files']:,}")
                for r in facts["repositories"]
            ],
        ),
        "",
        "The text stays under the licences of these repositories.",
        "",
        "## How it was cut",
        "",
        facts["split"]["rule"],
        "",
        *_table(
            ("language", "files", "size"),
            [
                (name, f"{n['files']:,}", _mebibytes(n["bytes"]))
                for name, n in sorted(facts["languages"].items(), key=lambda item: (-item[1]["bytes"], item[0]))
            ],
        ),
        "",
        "Left out:",
        "",
        *_table(("reason", "count"), [(reason, f"{count:,}") for reason, count in facts["dropped"].items()]),
        "",
        _redactions(facts),
        "",
    ]
    return "\n".join(lines)


def dialogue_card(facts: Mapping[str, Any]) -> str:
    """The text of the README of a dataset of dialogues."""
    dialogues, answers, size = facts["dialogues"], facts["answers"], facts["bytes"]
    lines = [
        _HEADER,
        "# Dialogues for a chat assistant",
        "",
        f"{dialogues['train']:,} dialogues ({answers['train']:,} answers, {_mebibytes(size['train'])}) to train on and "
        f"{dialogues['heldout']:,} ({answers['heldout']:,}, {_mebibytes(size['heldout'])}) held out, put together by "
        "Fimble. Load it with `datasets.load_dataset(FOLDER)`.",
        "",
        "Columns: `source` and `line`, where a dialogue comes from, and `messages`, each with `role` and `content`. "
        "`manifest.json` holds the settings and all counts.",
        "",
        "## Where it comes from",
        "",
        *_table(
            ("file", "sha256", "dialogues"),
            [(s["name"], s["sha256"][:12], f"{s['dialogues']:,}") for s in facts["sources"]],
        ),
        "",
        "The text stays under the licences of these files.",
        "",
        "## How it was cut",
        "",
        facts["split"]["rule"],
        "",
        "Left out:",
        "",
        *_table(("reason", "count"), [(reason, f"{count:,}") for reason, count in facts["dropped"].items()]),
        "",
        _redactions(facts),
        "",
    ]
    return "\n".join(lines)


def _redactions(facts: Mapping[str, Any]) -> str:
    return (
        f"Secrets replaced: {sum(facts['secrets_redacted'].values()):,}. The patterns are few and precise: "
        "that none was found does not prove that there is none."
    )


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    ruled = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in ruled]


def _cell(text: str) -> str:
    return "".join("\\" + character if character in "\\|`<>[]*" else character for character in text)


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
