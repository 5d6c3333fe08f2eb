"""The shape of a base, from its `config.json` alone: of a folder, of a well-known model, or fetched from the hub."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from toolchain.contracts import architectures
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import UserError, reason
from toolchain.contracts.tokenizer import FILE
from toolchain.planning import layers
from train.bases import added_tokens
from train.bases.base import CONFIG, HUB_ID

ANSWERS_WITHIN_SECONDS = 5


def known() -> dict[str, dict[str, Any]]:
    """The configs of well-known bases by their hub ids, as far as a plan needs them."""
    table = _table()
    return {name: {**table["families"][row["model_type"]], **row} for name, row in table["models"].items()}


def read(base: str) -> Architecture:
    """The architecture of a checkpoint folder or a hub id, of which at most `config.json` is fetched.

    Raises UserError when it cannot be had, ArtifactError and UnsupportedArchitecture as for any checkpoint.
    """
    folder = Path(base).expanduser()
    if folder.is_dir():
        return architectures.read(folder)
    if base in known():
        return architectures.from_config(known()[base], where=base)
    if not HUB_ID.fullmatch(base):
        raise UserError(
            f"the base {base} is neither a folder nor a hub id",
            f"Name a checkpoint folder, or a hub id. Known without a network: {', '.join(known())}.",
        )
    return architectures.read(_fetch(base).parent)


def with_fim_tokens(base: str, model: Architecture) -> Architecture:
    """The model with rows for the FIM tokens that training would add.

    A folder's tokenizer tells how many rows are free; without one none is taken to be. Raises SettingsError where the
    tokenizer has FIM tokens already.
    """
    folder = Path(base).expanduser()
    if (folder / FILE).is_file():
        return added_tokens.for_folder(folder, base, model).facts
    return added_tokens.with_rows(model, model.vocab_size + layers.FIM_TOKENS)


def _fetch(base: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    silence = _silence(base)
    try:
        return Path(hf_hub_download(base, CONFIG, local_files_only=silence is not None))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        why = silence or reason(error)
        raise UserError(
            f"config.json of {base} cannot be fetched from the model hub ({why})",
            f"Check its name and the network. Known without a network: {', '.join(known())}.",
        ) from None


def _silence(base: str) -> str | None:
    """Why the hub does not answer at all, if so: asked once, where its own client would try for 24 seconds."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import get_session

    try:
        get_session().head(hf_hub_url(base, CONFIG), timeout=ANSWERS_WITHIN_SECONDS)
    except Exception as error:  # which HTTP library it uses, and so what that raises, differs by release
        return str(error) or type(error).__name__
    return None


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "models.toml").read_text(encoding="utf-8"))
