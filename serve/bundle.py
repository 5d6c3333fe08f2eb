"""Opening a bundle: what is served, read from its manifest, MLC's chat config and the tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.engine.runner import Runner
from serve.engine.sampling import Sampling
from toolchain.contracts import fim, manifest
from toolchain.contracts.errors import ArtifactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Bundle:
    folder: Path
    name: str
    context_size: int
    spec: fim.FimSpec
    ids: fim.FimIds
    tokenizer: Tokenizer
    sampling: Sampling
    max_tokens: int
    prefill_chunk: int
    library: Path

    @property
    def params(self) -> Path:
        return self.folder / "params"


def open_bundle(folder: Path, target: str = "cpu") -> Bundle:
    """The bundle at `folder`. Raises ArtifactError when it is not whole or has no library for `target`."""
    from tokenizers import Tokenizer

    folder = folder.resolve()
    facts = manifest.read(folder, "bundle").facts
    params = folder / "params"
    try:
        chat: dict[str, Any] = json.loads((params / "mlc-chat-config.json").read_text(encoding="utf-8"))
        spec = fim.FimSpec(**facts["fim"])
        targets = facts["targets"]
        tokenizer = Tokenizer.from_file(str(params / "tokenizer.json"))
    except Exception as error:  # tokenizers raises plain Exception for a file it cannot parse
        raise ArtifactError(f"the bundle {folder} cannot be read ({error})", "Compile it again.") from None
    if target not in targets:
        raise ArtifactError(f"{folder} has no library for {target}", f"It has: {', '.join(targets)}.")
    library = folder / targets[target]["library"]
    if library.resolve().parent != folder or not library.is_file():
        raise ArtifactError(f"the library {library} is missing", "Compile the bundle again.")
    tokenizer.encode_special_tokens = True
    return Bundle(
        folder=folder,
        name=str(facts["name"]),
        context_size=int(facts["context_size"]),
        spec=spec,
        ids=fim.resolve(spec, tokenizer.token_to_id, where=str(params / "tokenizer.json")),
        tokenizer=tokenizer,
        sampling=Sampling(temperature=float(chat["temperature"]), top_p=float(chat["top_p"])),
        max_tokens=int(chat["max_gen_len"]),
        prefill_chunk=int(chat["prefill_chunk_size"]),
        library=library,
    )


def load_runner(bundle: Bundle) -> Runner:
    """The bundle's model, loaded and ready."""
    from serve.engine.tvm_runner import TvmRunner

    return TvmRunner(bundle.library, bundle.params, bundle.context_size)
