"""The compile stage: a checkpoint to a bundle, ready to be served."""

from __future__ import annotations

import shutil
from pathlib import Path

from compile import processor
from compile.schemes import parse_scheme
from compile.settings import CompileSettings
from toolchain.contracts import architectures, fim
from toolchain.contracts import settings as contract_settings
from toolchain.contracts.errors import MissingExtra
from toolchain.contracts.manifest import Draft, Parent
from toolchain.contracts.progress import Progress
from toolchain.contracts.stage import Plan
from toolchain.contracts.targets import parse_target
from toolchain.contracts.tokenizer import open_tokenizer

RECIPE = 1


def plan_compile(checkpoint: Path, parent: Parent, settings: CompileSettings) -> Plan:
    """The bundle of the checkpoint in Hugging Face's layout at `checkpoint`, which `parent` names by its digest.

    The processor that a `cpu` library is built for is among the settings, so a bundle moved to another machine's
    workspace is rebuilt there. Raises UnsupportedArchitecture, FimTokenError and ArtifactError before any work.
    """
    facts = architectures.read(checkpoint)
    scheme = parse_scheme(settings.quantization)
    tokenizer = open_tokenizer(checkpoint)
    spec = fim.detect(tokenizer.token_to_id, where=str(checkpoint / "tokenizer.json"))
    ids = fim.resolve(spec, tokenizer.token_to_id)
    context = min(settings.context_size or facts.context_size, facts.context_size)
    _require_tvm()

    def write(draft: Draft, work: Path, progress: Progress) -> None:
        from compile import chat_config, library, weights

        params = draft.path / "params"
        params.mkdir()
        weights.convert(checkpoint, facts, scheme, params, progress)
        content = chat_config.make(facts, scheme, context, checkpoint, spec.end_of_text, ids.end_of_text)
        for name in content["tokenizer_files"]:
            shutil.copyfile(checkpoint / name, params / name)
        chat_config.write(params / "mlc-chat-config.json", content)
        libraries = {}
        for name in settings.target:
            target = parse_target(name)
            file = f"{settings.name}-{scheme.name}-{target.name}.{target.extension}"
            progress.start(f"library for {name}")
            metadata = library.build(facts, scheme, draft.path / file)
            progress.finish()
            libraries[name] = {"library": file, "tvm": metadata["tvm"], **metadata["target"]}
        draft.facts |= {
            "name": settings.name,
            "scheme": scheme.name,
            "family": facts.family,
            "parameters": facts.parameters,
            "context_size": context,
            "fim": spec.to_json(),
            "targets": libraries,
        }

    return Plan(
        kind="bundle",
        recipe=RECIPE,
        parents=(parent,),
        settings=contract_settings.to_json(settings) | {"context_size": context, "processor": processor.identity()},
        write=write,
    )


def _require_tvm() -> None:
    from importlib.util import find_spec

    if find_spec("tvm") is None:
        raise MissingExtra("TVM is not installed", "Run: pip install 'fimble[compile]'")
