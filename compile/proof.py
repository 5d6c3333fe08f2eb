"""Writing what a bundle proves itself with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from compile import reference
from compile.schemes import Scheme
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.fim import FimIds, FimSpec
from toolchain.contracts.proof import FILE, MOST_TOKENS, PROMPT, ROWS


def write(
    folder: Path, params: Path, facts: Architecture, scheme: Scheme, spec: FimSpec, ids: FimIds, tokenizer: Tokenizer
) -> None:
    """Write `proof.npz` to `folder` for the weights in `params`: a FIM prompt, or text
    for a model that fills no middle, and the reference's logits after it.

    Raises ArtifactError when the weights give logits that are not finite, though each weight is.
    """
    prefix, suffix = (tokenizer.encode(text, add_special_tokens=False).ids for text in PROMPT)
    prompt = ids.arrange(spec.serving_order, prefix, suffix) if spec.fills else [*prefix, *suffix]
    prompt = prompt[:MOST_TOKENS]
    with np.errstate(all="ignore"):  # what overflows is told below
        logits = reference.logits(facts, reference.open_weights(params, scheme), prompt, ROWS)
    if not np.isfinite(logits).all():
        raise ArtifactError(
            "the checkpoint's weights are so large that its logits are not finite",
            "Train or merge again; this checkpoint is damaged.",
        )
    with (folder / FILE).open("wb") as stream:
        np.savez(stream, ids=np.asarray(prompt, np.int32), logits=logits.astype(np.float32))
