"""What prompts for an upstream are made with: the tokenizer and the FIM tokens of the model that it serves."""

from __future__ import annotations

import json
from pathlib import Path

from serve.bundle import Bundle, end_ids
from serve.engine.sampling import Sampling
from toolchain.contracts import fim, manifest
from toolchain.contracts.tokenizer import open_tokenizer

SAMPLING, MAX_TOKENS = Sampling(temperature=0.2, top_p=0.95), 64
"""The values that `fimble compile` gives a bundle."""
CONTEXT = 2048


def open_source(folder: Path, context_size: int | None) -> Bundle:
    """A bundle, a checkpoint in Hugging Face's layout, or a folder with its tokenizer, as a bundle without libraries.

    `context_size` in tokens is what the upstream says of its own; else `config.json` tells. Raises ArtifactError and
    FimTokenError for a folder that tells too little.
    """
    folder = folder.resolve()
    said = manifest.read(folder) if manifest.is_whole(folder) else None
    params = folder / "params" if said and said.kind == "bundle" else folder
    recorded = said.facts.get("fim") if said else None
    plain = open_tokenizer(params)
    spec = fim.FimSpec(**recorded) if recorded else fim.detect(plain.token_to_id, where=str(params))
    tokenizer = open_tokenizer(params, spec.control_tokens)
    ids = fim.resolve(spec, tokenizer.token_to_id, where=str(params))
    return Bundle(
        folder=folder,
        name=str(said.facts.get("name", folder.name)) if said else folder.name,
        context_size=context_size or _context_size(params) or CONTEXT,
        spec=spec,
        ids=ids,
        end_ids=end_ids(ids, tokenizer),
        tokenizer=tokenizer,
        sampling=SAMPLING,
        max_tokens=MAX_TOKENS,
        prefill_chunk=1,
        params=params,
        builder="upstream",
        libraries=(),
    )


def _context_size(folder: Path) -> int | None:
    """What Hugging Face's or MLC's config says, by whichever of the names the family uses."""
    for file in ("config.json", "mlc-chat-config.json"):
        try:
            config = json.loads((folder / file).read_text(encoding="utf-8"))
            told = (config.get(name) for name in ("context_window_size", "max_position_embeddings", "n_positions"))
            found = next((size for size in told if isinstance(size, int) and size > 0), None)
        except (OSError, ValueError, RecursionError, AttributeError):
            continue
        if found:
            return found
    return None
