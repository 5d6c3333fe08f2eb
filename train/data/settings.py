"""What a user can set about collecting a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from toolchain.contracts.errors import SettingsError

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
            if isinstance(value, str) or not all(isinstance(item, str) and item.strip() for item in value):
                raise SettingsError(f"{name} must be a list of texts, not {value!r}", f'Write {name} = ["..."].')
            object.__setattr__(self, name, tuple(value))
        _number("heldout_fraction", self.heldout_fraction, "above 0 and at most 0.5", 0 < self.heldout_fraction <= 0.5)
        threshold = self.near_duplicate_threshold
        _number("near_duplicate_threshold", threshold, "0, or 0.5 to 1", threshold == 0 or 0.5 <= threshold <= 1)
        _number("max_file_bytes", self.max_file_bytes, f"1 to {READ_LIMIT}", 1 <= self.max_file_bytes <= READ_LIMIT)
        _number("max_line_length", self.max_line_length, "at least 1", self.max_line_length >= 1)
        average = self.max_average_line_length
        _number("max_average_line_length", average, "at least 1", average >= 1)
        if self.heldout_unit not in get_args(HeldoutUnit):
            raise SettingsError(
                f"heldout_unit cannot be {self.heldout_unit!r}", f"Use one of: {', '.join(get_args(HeldoutUnit))}."
            )


def _number(name: str, value: float, allowed: str, holds: bool) -> None:
    if not holds:
        raise SettingsError(f"{name} cannot be {value}", f"Use a value that is {allowed}.")
