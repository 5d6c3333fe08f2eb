"""What a bundle proves itself with: the ids of a short prompt, and the logits that its weights give.

`proof.npz` holds `ids [T]` int32 and `logits [R, V]` float32, those after each of the last R ids, computed by
`compile/reference.py`. A library that does not come near them computes something else than its model.
"""

from __future__ import annotations

FILE = "proof.npz"
ROWS, MOST_TOKENS = 4, 32
PROMPT = ("def mean(values):\n    total = ", "\n    return total / len(values)\n")
# Keys and values in float16, and the order of sums, change logits by a hundredth of their range at most; a wrong
# kernel gives logits that have nothing to do with the right ones.
TOLERANCE = 0.05
