"""How a copilot generates: the values of `mlc-chat-config.json` that its user may change.

The defaults are those that the reference recipe patched into MLC's file of 2023. `mean_gen_len` and `max_gen_len` are
fields of that time, which today's MLC ignores. Our server reads `max_gen_len`, `temperature`, `top_p` and
`repetition_penalty` (`serve/bundle.py`); the presence and frequency penalties are for MLC alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from toolchain.contracts.errors import SettingsError
from toolchain.contracts.settings import suggest


@dataclass(frozen=True)
class Value:
    default: float
    holds: Callable[[float], bool]
    allowed: str

    @property
    def whole(self) -> bool:
        return isinstance(self.default, int)


VALUES = {
    "temperature": Value(0.2, lambda v: 0 <= v <= 2, "a number from 0 to 2"),
    "top_p": Value(0.95, lambda v: 0 < v <= 1, "a number above 0, up to 1"),
    "presence_penalty": Value(0.0, lambda v: -2 <= v <= 2, "a number from -2 to 2"),
    "frequency_penalty": Value(0.0, lambda v: -2 <= v <= 2, "a number from -2 to 2"),
    "repetition_penalty": Value(1.0, lambda v: 0 < v <= 2, "a number above 0, up to 2; 1 is none"),
    "mean_gen_len": Value(64, lambda v: v >= 1, "a whole number of tokens, 1 or more"),
    "max_gen_len": Value(64, lambda v: v >= 1, "a whole number of tokens, 1 or more"),
}


def values(changes: Iterable[str]) -> dict[str, float]:
    """Every value by name, the defaults with `changes`, each `key=value`. Raises SettingsError, naming the key."""
    found: dict[str, float] = {name: value.default for name, value in VALUES.items()}
    for change in changes:
        key, equals, text = (part.strip() for part in change.partition("="))
        if not equals:
            raise SettingsError(f"--set {change} is not key=value", "Write --set temperature=0.1, for one.")
        if key not in VALUES:
            raise SettingsError(f"--set knows no key '{key}'", suggest(key, VALUES))
        value = VALUES[key]
        try:
            found[key] = int(text) if value.whole else float(text)
        except ValueError:
            raise SettingsError(f"--set {key} cannot be '{text}'", f"Give {value.allowed}.") from None
        if not value.holds(found[key]):
            raise SettingsError(f"--set {key} cannot be {text}", f"Give {value.allowed}.")
    return found
