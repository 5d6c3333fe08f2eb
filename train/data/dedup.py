"""Files that occur twice: exactly, by the hash of their text, or nearly, by MinHash over word shingles.

One of each cluster stays, the first that was added; what is compared is the text as it would enter the dataset.
Everything is seeded, so the same files in the same order always give the same clusters.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

PERMUTATIONS = 128
SHINGLE = 5
SEED = 42
_WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")
_MIX = np.uint64(0x9E3779B97F4A7C15)


EXACT = "duplicate"
NEAR = "near-duplicate"


class Duplicates:
    """Tells of files given one after the other whether each repeats one that stays.

    It remembers a hash of every file and, when `threshold` is not 0, a signature of 512 bytes; never the text.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._rows = rows_per_band(threshold) if threshold else PERMUTATIONS
        self._exact: set[bytes] = set()
        self._signatures: list[NDArray[np.uint32]] = []
        self._bands: list[defaultdict[bytes, list[int]]] = [
            defaultdict(list) for _ in range(PERMUTATIONS // self._rows)
        ]

    def repeats(self, text: bytes) -> str | None:
        """EXACT or NEAR for a file that repeats an earlier one; otherwise the file stays, and is remembered.

        A near-duplicate is compared only with files that stay. So what stays holds no known pair, and the files of
        a cluster cannot end on both sides of the held-out split.
        """
        digest = hashlib.sha256(text).digest()
        if digest in self._exact:
            return EXACT
        self._exact.add(digest)
        signature = signature_of(text) if self._threshold else None
        if signature is None:
            return None
        keys = [band.tobytes() for band in signature.reshape(-1, self._rows)]
        candidates = {other for band, key in zip(self._bands, keys, strict=True) for other in band.get(key, ())}
        for other in candidates:
            if np.count_nonzero(self._signatures[other] == signature) >= self._threshold * PERMUTATIONS:
                return NEAR
        for band, key in zip(self._bands, keys, strict=True):
            band[key].append(len(self._signatures))
        self._signatures.append(signature)
        return None


def signature_of(text: bytes) -> NDArray[np.uint32] | None:
    """The MinHash signature of a text's shingles; None for a text of fewer words than one shingle."""
    words = np.array([zlib.crc32(word) for word in _WORD.findall(text)], dtype=np.uint64)
    count = len(words) - SHINGLE + 1
    if count < 1:
        return None
    shingles = np.zeros(count, dtype=np.uint64)
    for offset in range(SHINGLE):
        shingles = (shingles ^ words[offset : offset + count]) * _MIX
        shingles ^= shingles >> np.uint64(29)
    unique = np.unique(shingles)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(unique, [0, len(unique)], PERMUTATIONS, SEED)
    return np.array(matrix.to_rows()[0], dtype=np.uint32)


def rows_per_band(threshold: float) -> int:
    """The widest bands with which a pair right at the threshold still meets in one of them 99 times in 100."""
    for rows in (32, 16, 8, 4, 2):
        if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= 0.99:
            return rows
    return 1
