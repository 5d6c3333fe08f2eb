"""Whole models with the kernels of a GPU, run on the processor, beside transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compile.gpu.emulator import TARGETS, Emulator
from tests.compile.gpu.stand_ins import with_stand_ins
from tests.compile.test_families import IDS, reference_logits
from toolchain.contracts import architectures
from toolchain.contracts.fim import STARCODER
from toolchain.contracts.progress import Silent
from toolchain.contracts.targets import parse_target

pytestmark = pytest.mark.compile
TOKENS = IDS[:40]
# Kernels of TVM's paged cache that are only for models of other kinds.
FOREIGN = ("mla", "tree", "sliding", "debug")


def runner(
    variant: str,
    scheme_name: str,
    kind: str,
    source: Path,
    folder: Path,
    emulate: Callable[..., Emulator],
    patch: pytest.MonkeyPatch,
) -> Any:
    """A runner of the model whose kernels are those for a GPU of this kind, and run in the emulator."""
    import tvm
    from tvm import relax, tirx

    from compile import library, weights
    from compile.caches import paged
    from compile.kernels.gpu.binding import bind_threads
    from compile.kernels.gpu.limits import Limits
    from compile.kernels.gpu.paged_attention import merge_in_order
    from compile.layers.gpu import GpuLayers
    from compile.schemes import parse_scheme
    from serve.engine.loading import load

    device, build, functions = tvm.target.Target(TARGETS[kind]), relax.build, paged.functions
    transform = relax.transform

    def build_with_stand_ins(module: Any, **options: Any) -> Any:
        passes = [transform.LegalizeOps(), transform.FoldConstant(), transform.DeadCodeElimination()]
        module = bind_threads(tvm.transform.Sequential(passes)(merge_in_order(module)), device)
        kernels = {variable.name_hint: f for variable, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
        wanted = {name: f for name, f in kernels.items() if not any(word in name for word in FOREIGN)}
        return build(with_stand_ins(module, emulate(wanted, kind, hoist=False)), **options)

    facts, scheme = architectures.read(source), parse_scheme(scheme_name)
    weights.convert(source, facts, scheme, folder, Silent())
    with patch.context() as patched:
        patched.setattr(relax, "build", build_with_stand_ins)
        patched.setattr(library, "layers_of", lambda scheme, target: GpuLayers(scheme, Limits()))
        patched.setattr(paged, "functions", lambda model, layers, facts, _: functions(model, layers, facts, device))
        library.build(facts, scheme, STARCODER, parse_target("cpu"), folder / "model.a", pages=True)
    return load(folder / "model.a", folder)


# Float32 differs in the order of sums; in float16 each of some twenty roundings is 2^-11 of the greatest number.
@pytest.mark.parametrize(
    ("variant", "scheme", "kind", "allowed"),
    [
        ("llama", "q0f32", "cuda", 1e-5),
        ("qwen2", "q0f32", "metal", 1e-5),
        ("gpt_bigcode", "q4f16_1", "vulkan", 5e-3),
    ],
)
def test_models_equal_transformers(
    variant: str,
    scheme: str,
    kind: str,
    allowed: float,
    checkpoint_of: Callable[[str], Path],
    emulate: Callable[..., Emulator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = reference_logits(variant, scheme)[: len(TOKENS)]
    found = runner(variant, scheme, kind, checkpoint_of(variant), tmp_path, emulate, monkeypatch)

    def differs(logits: np.ndarray, right: np.ndarray) -> float:
        return float(np.abs(logits - right).max() / np.abs(wanted).max())

    assert differs(found.score(TOKENS, 0), wanted) < allowed
    found.forward(TOKENS[:35], 0)
    for at in range(35, 38):
        assert differs(found.forward([TOKENS[at]], at), wanted[at]) < allowed
    # Tokens are taken back, and a chunk follows that sees the pages before it: here partial results are merged.
    assert differs(found.forward(TOKENS[20:33], 20), wanted[32]) < allowed
