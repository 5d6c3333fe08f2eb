"""The compile stage: a checkpoint to a bundle, ready to be served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compile.caches import context_size
from compile.generation import values
from compile.schemes import GROUP, Scheme, parse_scheme
from compile.settings import CompileSettings
from toolchain.contracts import architectures, fim, manifest, tvm_package
from toolchain.contracts import settings as contract_settings
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import ArtifactError, UnsupportedArchitecture
from toolchain.contracts.fim import FimSpec
from toolchain.contracts.manifest import Draft, Parent
from toolchain.contracts.processors import LEVELS
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from toolchain.contracts.targets import Target, parse_target
from toolchain.contracts.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

RECIPE = 3


def plan_compile(checkpoint: Path, parent: Parent, settings: CompileSettings) -> Plan:
    """The bundle of the checkpoint in Hugging Face's layout at `checkpoint`, which `parent` names by its digest.

    What `cpu` means on this machine, the installed TVM and, for CUDA, nvcc are among the settings: moved to another
    machine, or after an upgrade, a bundle is not current. Raises UnsupportedArchitecture, FimTokenError, MissingExtra,
    ArtifactError, and SettingsError for an installation of TVM that is two, before any work.
    """
    facts = architectures.read(checkpoint)
    scheme = parse_scheme(settings.quantization)
    tokenizer = open_tokenizer(checkpoint)
    spec = _fim_spec(checkpoint, facts, tokenizer)
    ids = fim.resolve(spec, tokenizer.token_to_id)
    targets = check_compile(facts, settings)
    devices = {target.device for target in targets.values()}
    most = context_size(facts, paged=devices != {"cpu"})
    context = min(settings.context_size or most, most)
    compilers = {"tvm": tvm_package.find().version}
    if "cuda" in devices:
        from compile import cuda

        compilers["nvcc"] = cuda.nvcc_version()

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        from compile import chat_config, cuda, library_cache, proof, weights

        weights.check(checkpoint, facts)
        if most < facts.context_size:
            progress.say(f"the context is {most:,} tokens, the model's window, as its cache on GPUs knows no other")
        params = draft.path / "params"
        params.mkdir()
        content = chat_config.make(facts, scheme, context, checkpoint, spec.end_of_text, ids, values(settings.set))
        for name in (*content["tokenizer_files"], chat_config.CHAT_TEMPLATE):
            if (checkpoint / name).is_file():
                _copy(checkpoint / name, params / name)
        chat_config.write(params / "mlc-chat-config.json", content)
        libraries = {}
        # What can fail soon comes first; the weights, which take longest, are kept in `work` until they are whole.
        for name, target in targets.items():
            if target.device == "cuda" and cuda.missing():
                progress.say(
                    f"the CUDA library will hold source, to be compiled at each start: there is no {cuda.missing()}"
                )
            progress.start(f"library for {name}")
            ending, key, build = _builder(settings.builder, facts, scheme, spec, target, params)
            libraries[name] = f"{settings.name}-{scheme.name}-{name}{ending}"
            library_cache.fetch(key, draft.path / libraries[name], build)
            progress.finish()
        weights.convert(checkpoint, facts, scheme, params, progress, work / "weights")
        progress.start("reference logits")
        proof.write(draft.path, params, facts, scheme, spec, ids, tokenizer)
        progress.finish()
        draft.facts |= {
            "name": settings.name,
            "scheme": scheme.name,
            "family": facts.family,
            "parameters": facts.parameters,
            "context_size": context,
            "fim": spec.to_json(),
            "targets": libraries,
            "builder": settings.builder,
        }

    return Plan(
        kind="bundle",
        recipe=RECIPE,
        parents=(parent,),
        settings=contract_settings.to_json(settings) | {"context_size": context, "target": list(targets)} | compilers,
        write=write,
    )


def check_compile(facts: Architecture, settings: CompileSettings) -> dict[str, Target]:
    """The targets by name, for a model of the shape `facts`.

    Raises UnsupportedArchitecture, MissingExtra and SettingsError for what can be known without the checkpoint.
    """
    scheme = parse_scheme(settings.quantization)
    targets = {target.name: target for target in _targets(settings)}
    if settings.builder == "mlc-llm":
        from compile import mlc_builder

        mlc_builder.check(list(targets.values()), scheme)
    else:
        for target in targets.values():
            _refuse_unfit(facts, target)
    tvm_package.find()
    if any(target.device == "cuda" for target in targets.values()):
        from compile import cuda

        cuda.check_archs(settings.arch)
    return targets


def _builder(
    name: str, facts: Architecture, scheme: Scheme, spec: FimSpec, target: Target, params: Path
) -> tuple[str, str, Callable[[Path], None]]:
    """How a library's file ends, the key that it is kept under, and what writes it."""
    if name == "mlc-llm":
        from compile import mlc_builder

        key = mlc_builder.key(params / "mlc-chat-config.json", target)
        return f"-mlc.{mlc_builder.EXTENSIONS[target.system]}", key, partial(mlc_builder.build, params, target)
    from compile import library, library_cache

    key = library_cache.key(facts, scheme, spec, target)
    return f".{target.extension}", key, partial(library.build, facts, scheme, spec, target)


def _copy(source: Path, out: Path) -> None:
    """A file of the tokenizer. Raises ArtifactError for one that should be JSON and is not."""
    if source.suffix == ".json":
        try:
            json.loads(source.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{source} cannot be read ({error})", "Fetch or write that file again.") from None
    shutil.copyfile(source, out)


def _targets(settings: CompileSettings) -> list[Target]:
    targets = map(parse_target, settings.target)
    return [replace(target, archs=settings.arch) if target.device == "cuda" else target for target in targets]


def _fim_spec(checkpoint: Path, facts: Architecture, tokenizer: Tokenizer) -> FimSpec:
    """What the checkpoint of ours says it was trained with; what a stranger's tokenizer lets one tell."""
    if manifest.is_whole(checkpoint):
        recorded = manifest.read(checkpoint, "checkpoint").facts.get("fim")
        if recorded:
            return FimSpec(**recorded)
    end = fim.end_of_text(facts.config, tokenizer.id_to_token)
    return fim.detect(tokenizer.token_to_id, str(checkpoint / "tokenizer.json"), end)


def _refuse_unfit(facts: Architecture, target: Target) -> None:
    """Raise UnsupportedArchitecture for sizes that the kernels cannot handle."""
    for name, size, step in (
        ("hidden size", facts.hidden_size, GROUP),
        ("inner size", facts.inner_size, GROUP),
        ("size of all heads", facts.query_size, GROUP),
        ("head size", facts.head_size, LEVELS[target.level].lanes),
    ):
        if size % step:
            raise UnsupportedArchitecture(
                f"the {name} in config.json is {size}, and our kernels need a multiple of {step}",
                "Choose another base model.",
            )
