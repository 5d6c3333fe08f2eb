"""Settings of `fimble compile`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from compile.generation import values
from compile.schemes import parse_scheme
from toolchain.contracts.errors import SettingsError
from toolchain.contracts.targets import parse_target


@dataclass(frozen=True)
class CompileSettings:
    quantization: str = "q4f16_1"
    """How weights are stored: q4f16_1, q4f32_1, q8f16_1, q8f32_1, q0f16 or q0f32."""

    target: tuple[str, ...] = ("cpu",)
    """A device to build a library for, such as cpu, x86-64-v3, arm64-macos, cuda or metal; may be given repeatedly."""

    arch: tuple[str, ...] = ("sm_80", "sm_86", "sm_89", "sm_90")
    """A GPU architecture that a CUDA library is for; may be given repeatedly."""

    set: tuple[str, ...] = ()
    """A value of mlc-chat-config.json to change, as key=value, such as temperature=0.1; may be given repeatedly."""

    context_size: int | None = None
    """Tokens of prompt and completion together; the model's own limit unless given, and never more."""

    builder: Literal["fimble", "mlc-llm"] = "fimble"
    """What compiles: our own kernels, or the mlc_llm that is installed, whose libraries its own engine runs."""

    name: str = "copilot"
    """The model's name, in file names and in the editors' model lists."""

    def __post_init__(self) -> None:
        parse_scheme(self.quantization)
        for name in self.target:
            parse_target(name)
        if not self.target:
            raise SettingsError("no target was given", "Use --target cpu.")
        for name in self.arch:
            if not re.fullmatch(r"sm_\d{2,3}a?", name):
                raise SettingsError(f"--arch {name} is no GPU architecture", "Use names such as sm_89.")
        values(self.set)
        if self.context_size is not None and self.context_size < 64:
            raise SettingsError(f"--context-size {self.context_size} is too small", "Use 64 or more.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise SettingsError(f"--name '{self.name}' cannot be a file name", "Use letters, digits, '.', '_' and '-'.")
