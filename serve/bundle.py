"""Opening a bundle: what is served, read from its manifest, MLC's chat config and the tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve.engine.runner import Runner
from serve.engine.sampling import Sampling
from toolchain.contracts import fim, manifest
from toolchain.contracts.errors import ArtifactError, FimbleError
from toolchain.contracts.progress import Progress
from toolchain.contracts.targets import Target, parse_target, rank, unfit
from toolchain.contracts.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHAT_CONFIG, TOKENIZER = "mlc-chat-config.json", "tokenizer.json"
SMALLEST_CONTEXT = 16


@dataclass(frozen=True)
class Bundle:
    """`end_ids` are the tokens at which generation ends: FIM's, the end of text and all others that are no text.

    `params` is the folder of weights and tokenizer. `libraries` are those that this machine can run, the best first,
    and `builder` is what compiled them.
    """

    folder: Path
    name: str
    context_size: int
    spec: fim.FimSpec
    ids: fim.FimIds
    end_ids: frozenset[int]
    tokenizer: Tokenizer
    sampling: Sampling
    max_tokens: int
    prefill_chunk: int
    params: Path
    builder: str
    libraries: tuple[tuple[Target, Path], ...]


def open_bundle(folder: Path) -> Bundle:
    """The bundle at `folder`. Raises ArtifactError when it is not whole or has no library for this machine."""
    folder = folder.resolve()
    facts = manifest.read(folder, "bundle").facts
    params = folder / "params"
    try:
        chat = json.loads(_inside(folder, f"params/{CHAT_CONFIG}").read_text(encoding="utf-8"))
        spec = fim.FimSpec(**facts["fim"])
        tokenizer = open_tokenizer(_inside(folder, f"params/{TOKENIZER}").parent, spec.control_tokens)
        ids = fim.resolve(spec, tokenizer.token_to_id, where=str(params / TOKENIZER))
        bundle = Bundle(
            folder=folder,
            name=str(facts["name"]),
            context_size=int(facts["context_size"]),
            spec=spec,
            ids=ids,
            end_ids=end_ids(ids, tokenizer),
            tokenizer=tokenizer,
            sampling=Sampling(
                temperature=float(chat["temperature"]),
                top_p=float(chat["top_p"]),
                repetition_penalty=float(chat["repetition_penalty"]),
            ),
            max_tokens=int(chat["max_gen_len"]),
            prefill_chunk=int(chat["prefill_chunk_size"]),
            params=params,
            builder=str(facts.get("builder", "fimble")),
            libraries=_libraries(folder, facts["targets"]),
        )
    except FimbleError:
        raise
    except (OSError, ValueError, RecursionError, TypeError, LookupError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"the bundle {folder} cannot be read ({reason})", "Compile it again.") from None
    if min(bundle.max_tokens, bundle.prefill_chunk) < 1 or bundle.context_size < SMALLEST_CONTEXT:
        raise ArtifactError(f"{params / CHAT_CONFIG} holds lengths that leave no room for text", "Compile it again.")
    return bundle


def end_ids(ids: fim.FimIds, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that is no text."""
    special = (id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    return ids.control.union(special)


def load_runner(bundle: Bundle, progress: Progress) -> Runner:
    """The bundle's model, loaded, proved and ready: with the best library that computes it.

    Raises ArtifactError when files are damaged, or when no library computes what the bundle's weights should give.
    """
    from serve import proof
    from serve.engine.loading import load

    proof.check_files(bundle.folder, progress)
    for number, (target, library) in enumerate(bundle.libraries, 1):
        try:
            progress.start(f"loading {bundle.name} for {target.name}")
            runner = load(library, bundle.params, bundle.context_size)
            proof.check_library(bundle.folder, target, runner)
            progress.finish()
            return runner
        except ArtifactError as error:
            if number == len(bundle.libraries):
                raise
            progress.say(f"{error}; trying the next library")
    raise AssertionError("a bundle that is open has libraries")


def _libraries(folder: Path, names: dict[str, str]) -> tuple[tuple[Target, Path], ...]:
    """The libraries by target that this machine can run. Raises ArtifactError with the reasons when there are none."""
    targets = sorted((parse_target(name) for name in names), key=rank, reverse=True)
    reasons = {target.name: unfit(target) for target in targets}
    fit = [target for target in targets if not reasons[target.name]]
    if not fit:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ArtifactError(f"{folder} has no library for this machine ({told})", "Compile it here, with --target cpu.")
    return tuple((target, _inside(folder, names[target.name])) for target in fit)


def _inside(folder: Path, name: str) -> Path:
    """A file that the bundle names. Raises ArtifactError when it is missing or lies elsewhere."""
    path = folder / name
    if not path.resolve().is_relative_to(folder):
        raise ArtifactError(f"{folder} names {name}, which lies outside of it", "Do not use this bundle.")
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", "Compile the bundle again.")
    return path
