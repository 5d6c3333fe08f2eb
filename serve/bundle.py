"""Opening a bundle: what it holds, checked, without loading weights or code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from toolchain.contracts import fim, manifest
from toolchain.contracts.errors import ArtifactError, FimTokenError
from toolchain.contracts.fim import FimIds, FimSpec

if TYPE_CHECKING:
    from serve.engine.tvm_runner import TvmRunner

CHAT_CONFIG = "mlc-chat-config.json"
AGAIN = "Compile the bundle again."


@dataclass(frozen=True)
class Bundle:
    """A bundle's content as the server needs it."""

    folder: Path
    name: str
    fim: FimSpec
    ids: FimIds
    tokenizer: Tokenizer
    context_size: int
    library: Path | None
    """The library for this machine's processor, or None if the bundle has none."""
    chat_config: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> Path:
        return self.folder / "params"

    @property
    def tokenizer_file(self) -> Path:
        return self.params / "tokenizer.json"


def open_bundle(folder: Path) -> Bundle:
    """Read the bundle at `folder`. Raises ArtifactError when it is not whole or does not fit together."""
    facts = manifest.read(folder, "bundle").facts
    try:
        name, context_size = facts["name"], facts["context_size"]
        if not isinstance(name, str) or not isinstance(context_size, int) or context_size < 8:
            raise ValueError("its name or context size makes no sense")
        spec = FimSpec(**facts["fim"])
        target = facts["targets"].get("cpu")
        library = None if target is None else _inside(folder, target["library"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"the manifest of {folder} does not describe a bundle ({error})", AGAIN) from None
    params = folder / "params"
    tokenizer = _read_tokenizer(_inside(folder, "params/tokenizer.json"))
    try:
        ids = fim.resolve(spec, tokenizer.token_to_id, where=str(params / "tokenizer.json"))
    except FimTokenError as error:
        raise ArtifactError(error.message, AGAIN) from None
    return Bundle(folder, name, spec, ids, tokenizer, context_size, library, _read_chat_config(params / CHAT_CONFIG))


def load_runner(bundle: Bundle) -> TvmRunner:
    """Load the bundle's library and weights. Raises ArtifactError, or MissingExtra without TVM's runtime."""
    if bundle.library is None:
        raise ArtifactError(
            f"{bundle.folder} has no library for this machine's processor", "Compile it with --target cpu."
        )
    from serve.engine.tvm_runner import TvmRunner

    return TvmRunner(bundle.library, bundle.params, bundle.context_size)


def _inside(folder: Path, name: object) -> Path:
    """The file `name` of the bundle; a manifest that was tampered with must not name one elsewhere."""
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"the manifest of {folder} names {name}, outside of it", "Do not use this bundle.")
    if not path.is_file():
        raise ArtifactError(f"{folder} lacks the file {name}", AGAIN)
    return path


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception for a file it cannot parse
        raise ArtifactError(f"{path} cannot be read ({error})", AGAIN) from None


def _read_chat_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", AGAIN) from None
    return values if isinstance(values, dict) else {}
