"""The model that training starts from: a whole checkpoint in Hugging Face's layout, known by its digest.

Nothing of a base is executed and nothing of it is unpickled: weights are safetensors, architectures are ours.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from toolchain.contracts import architectures, fim, manifest, weight_files
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import ArtifactError, FimTokenError, UnsupportedArchitecture, UserError, reason
from toolchain.contracts.fim import FimSpec
from toolchain.contracts.manifest import Parent, sha256_of
from train.bases.remembered import RememberedHashes
from train.bases.tokenization import open_text_tokenizer

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Base:
    """A checkpoint on this machine. `name` is what people call it, never a path.

    `lacks` are the tokens of `spec` that its vocabulary does not have; then `spec` is what training can add.
    """

    folder: Path
    name: str
    digest: str
    facts: Architecture
    spec: FimSpec
    lacks: tuple[str, ...] = ()

    @property
    def parent(self) -> Parent:
        return Parent(kind="checkpoint", digest=self.digest, role="base")

    def for_chat(self) -> Base:
        """The base as chat training takes it: it needs no FIM tokens, and only an end of text.

        Raises FimTokenError where that is lacking.
        """
        if not self.lacks:
            return self
        if self.spec.end_of_text in self.lacks:
            raise self.fim_refusal()
        return replace(self, spec=fim.without(self.spec.end_of_text), lacks=())

    def fim_refusal(self) -> FimTokenError:
        """What to tell who needs the tokens that it lacks."""
        return fim.lacks(str(self.folder / "tokenizer.json"), self.lacks)


def open_base(name: str, cache: Path) -> Base:
    """The base called `name`: a checkpoint of ours, a Hugging Face folder, or a hub id, which is fetched.

    Raises UserError when it cannot be had, ArtifactError when it is not whole, and UnsupportedArchitecture.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        _refuse_several(folder)
        return _open(folder.resolve(), folder.resolve().name, cache)
    if folder.exists() or not HUB_ID.fullmatch(name):
        raise UserError(
            f"the base {name} is neither a folder nor a hub id", "Name a checkpoint folder, or a hub id: OWNER/MODEL."
        )
    return _open(_fetch(name), name, cache)


def _refuse_several(folder: Path) -> None:
    """Raise ArtifactError for a folder of checkpoints that is none itself, as a workspace has one."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inside and not (folder / CONFIG).exists():
        raise ArtifactError(f"{folder} holds checkpoints and is none", f"Name one of them: {', '.join(inside[:5])}.")


def _open(folder: Path, name: str, cache: Path) -> Base:
    if (folder / "adapter_config.json").is_file():
        raise ArtifactError(f"{folder} is an adapter, not a base", "Merge it into its base first, or name that base.")
    ours = manifest.read(folder, "checkpoint") if manifest.is_whole(folder) else None
    facts = _architecture(folder)
    refuse_quantized(facts, name)
    _check_weights(folder)
    spec, lacks = fim_tokens(folder, facts)
    if ours is None:
        hashes = RememberedHashes(folder, cache)
        digest = fingerprint(folder, lambda path: hashes.sha256(path.name, path.stat(), lambda: sha256_of(path)))
        hashes.save()
        return Base(folder, name, digest, facts, spec, lacks)
    if "fim" in ours.facts and (known := FimSpec(**ours.facts["fim"])).fills:
        spec, lacks = known, ()
    return Base(folder, str(ours.facts.get("name", name)), ours.digest, facts, spec, lacks)


def refuse_quantized(facts: Architecture, name: str) -> None:
    """Raise ArtifactError for a base whose weights are said to be quantized."""
    if facts.config.get("quantization_config"):
        raise ArtifactError(f"the base {name} is quantized", "Use its 16-bit weights; quantization comes after.")


def _architecture(folder: Path) -> Architecture:
    try:
        return architectures.read(folder)
    except UnsupportedArchitecture as error:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "auto_map" in config:
            raise UnsupportedArchitecture(
                f"{folder} asks to run code of its own, and {error.message[0].lower()}{error.message[1:]}",
                f"No code of a model is ever run. {error.next_step}",
            ) from None
        raise


def _check_weights(folder: Path) -> None:
    for name, weight in weight_files.read_headers(folder).items():
        if weight.dtype not in FLOATS and name.endswith(".weight"):
            raise ArtifactError(
                f"{folder} holds {name} as {weight.dtype}", "Use a checkpoint with 16- or 32-bit float weights."
            )


def fim_tokens(folder: Path, facts: Architecture) -> tuple[FimSpec, tuple[str, ...]]:
    """The FIM tokens of a base, or those that it is to have, and which of them it lacks."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(f"{folder} has no tokenizer.json", "Save the tokenizer in its fast form there.")
    tokenizer = open_text_tokenizer(folder, ()).tokenizer
    highest = max(tokenizer.get_vocab().values())
    if highest >= facts.vocab_size:
        raise ArtifactError(
            f"{path} has the token id {highest}, and the model only {facts.vocab_size} entries",
            "Use the tokenizer that belongs to the weights.",
        )
    end = fim.end_of_text(facts.config, tokenizer.id_to_token)
    try:
        return fim.detect(tokenizer.token_to_id, str(path), end), ()
    except FimTokenError:
        spec = fim.to_add(tokenizer.token_to_id, end)
        return spec, fim.lacking(spec, tokenizer.token_to_id)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy what there is of a tokenizer's files from one folder to another."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    wanted = [
        weight_files.SINGLE,
        weight_files.INDEX,
        "model-*.safetensors",
        CONFIG,
        GENERATION_CONFIG,
        *TOKENIZER_FILES,
    ]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # OSError: offline and not in the hub's cache
        raise UserError(
            f"the base {name} cannot be fetched from the model hub ({reason(error)})",
            "Check its name and the network, or name a folder that holds the checkpoint.",
        ) from None


def fingerprint(folder: Path, hash_file: Callable[[Path], str] = sha256_of) -> str:
    """One hash over the weights, configuration and tokenizer in a foreign folder, which is never written to."""
    named = (CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES, weight_files.INDEX, "adapter_config.json")
    paths = sorted({*folder.glob("*.safetensors"), *(folder / name for name in named)})
    files = {path.name: hash_file(path) for path in paths if path.is_file()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
