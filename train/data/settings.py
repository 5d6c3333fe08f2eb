"""What a user can set about collecting a dataset, of code or of dialogues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolchain.contracts.settings import at_least, check, flag

READ_LIMIT = 16 << 20
"""Files above this size are never opened, whatever the settings say: one must fit into memory several times."""

HeldoutUnit = Literal["file", "repository"]


@dataclass(frozen=True)
class CollectSettings:
    heldout_fraction: float = 0.05
    """Share of the files (or repositories) that training never sees and evaluation uses."""

    heldout_unit: HeldoutUnit = "file"
    """What is held out as a whole: `file`, or `repository` where there are several."""

    near_duplicate_threshold: float = 0.85
    """Files whose 5-word shingles overlap at least this much (Jaccard) count as one; 0 keeps near-duplicates."""

    max_file_bytes: int = 1 << 20
    """Larger files are left out; a notebook is measured after it is reduced to its code."""

    max_line_length: int = 1000
    """Files with a longer line are left out as minified or data, in characters."""

    max_average_line_length: int = 120
    """Files whose lines are longer on average are left out, in characters; prose is exempt."""

    include: tuple[str, ...] = ()
    """Patterns as in .gitignore; when given, only files that match one are taken."""

    exclude: tuple[str, ...] = ()
    """Patterns as in .gitignore of files to leave out."""

    licenses_excluded: tuple[str, ...] = ()
    """Leave out repositories under one of these SPDX licences; `GPL-*`, `none` and `unknown` work too."""

    redact_secrets: bool = True
    """Replace private keys and access tokens of well-known shapes by a placeholder."""

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "licenses_excluded"):
            value = getattr(self, name)
            check(flag(name), value, all(item.strip() for item in value), "texts that are not blank")
        fraction, threshold, most = self.heldout_fraction, self.near_duplicate_threshold, self.max_file_bytes
        check("--heldout-fraction", fraction, 0 < fraction <= 0.5, "a number above 0 and at most 0.5")
        check("--near-duplicate-threshold", threshold, threshold == 0 or 0.5 <= threshold <= 1, "0, or 0.5 to 1")
        check("--max-file-bytes", most, 1 <= most <= READ_LIMIT, f"a whole number from 1 to {READ_LIMIT}")
        at_least("--max-line-length", self.max_line_length, 1)
        at_least("--max-average-line-length", self.max_average_line_length, 1)


@dataclass(frozen=True)
class DialogueSettings:
    heldout_fraction: float = 0.05
    """Share of the dialogues that training never sees and evaluation uses."""

    redact_secrets: bool = True
    """Replace private keys and access tokens of well-known shapes by a placeholder."""

    def __post_init__(self) -> None:
        fraction = self.heldout_fraction
        check("--heldout-fraction", fraction, 0 < fraction <= 0.5, "a number above 0 and at most 0.5")
