"""Kernels lowered for each target and run on the processor."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.compile.gpu import emulator


@pytest.fixture(scope="package", autouse=True)
def quick_stacks() -> Iterator[None]:
    """TVMScript asks for the whole stack with every kernel. It is deep here, and its source takes long to find."""

    def outer(frame: Any, context: int = 1) -> list[inspect.FrameInfo]:
        found = []
        while frame:
            code = frame.f_code
            found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
            frame = frame.f_back
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "getouterframes", outer)
        yield


@pytest.fixture(scope="session")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., emulator.Emulator]:
    """Kernels by name to an emulator of a target."""
    if emulator.compiler() is None:
        pytest.skip("needs a C++ compiler to run GPU kernels on the processor: g++, clang++ or the package ziglang")

    folder = Path(tmp_path_factory.mktemp("emulator"))

    def make(functions: Mapping[str, Any], kind: str, hoist: bool = True) -> emulator.Emulator:
        return emulator.Emulator(functions, kind, folder, hoist)

    return make


@pytest.fixture(scope="session")
def assert_fit() -> Callable[[emulator.Emulator], None]:
    """Checks that lowered kernels keep to what any GPU with Vulkan or Metal has."""

    def check(emulated: emulator.Emulator) -> None:
        for name, launch in emulated.launches.items():
            assert launch.threads <= 256, name
            assert launch.shared_bytes <= 32768, name
            grid = launch.sizes("blockIdx", {"M": 4096, "B": 64})
            assert max(grid) <= 65535, (name, grid)
        # 64-bit integers and floats are slow or not there at all.
        assert not re.search(r"\b(long|int64_t|double)\b", body_of(emulated.source)), emulated.kind
        # Metal does not align an array of floats as a vector wants it.
        assert not re.search(r"\((thread|threadgroup) \w+4\*\)", emulated.source)

    return check


def body_of(source: str) -> str:
    """The kernels alone, without the declarations that TVM puts before CUDA's."""
    return source.rpartition("#define ushort")[2]
