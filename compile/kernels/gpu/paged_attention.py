"""A repair of TVM's paged attention.

Its kernel that merges two partial results has all threads of a head read the head's `S[...]` and then all of them
write it, with nothing between: a thread that reads late finds what another has written already. Prefill in chunks and
forked sequences then come out wrong wherever a head's threads do not run in step.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from toolchain.contracts.errors import StageError

NAME = "merge_state"


def merge_in_order(module: tvm.IRModule) -> tvm.IRModule:
    """The module with the repair in every kernel that merges. Raises StageError when none is found to repair."""
    repaired = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    found = 0
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc) and NAME in variable.name_hint:
            repaired[variable] = with_barrier(function)
            found += 1
    if not found:
        raise StageError(f"no kernel of the paged attention is called {NAME}", "This release of TVM is not supported.")
    return repaired


def with_barrier(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel with a barrier before its write to S. Raises StageError when it does not write S exactly once."""
    scores = [parameter for parameter in function.params if parameter.name == "S"]
    written = 0

    def repair(store: Any) -> Any:
        nonlocal written
        if not any(store.buffer.same_as(buffer) for buffer in scores):
            return store
        written += 1
        return tirx.SeqStmt([tirx.Evaluate(tirx.op.tvm_storage_sync("shared")), store])

    body = tvm_ffi.structural_map(function.body, (tirx.BufferStore, repair))
    if written != 1:
        raise StageError(
            f"a kernel of the paged attention writes S {written} times instead of once",
            "This release of TVM is not supported.",
        )
    return function.with_body(body)
