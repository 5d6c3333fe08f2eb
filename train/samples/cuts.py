"""Where a chunk is cut into prefix, middle and suffix: anywhere, between lines, or around a node of the syntax tree.

An editor's cursor stands anywhere, so that is the default. Middles that are whole lines, or a whole argument, statement
or function, are more like what a completion should be (Gong et al. 2025, arXiv:2506.00204).
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tree_sitter import Parser

Cut = Callable[[str, int, random.Random], tuple[int, int]]
"""From a chunk, the index of its file and a source of chance to the characters between which the middle lies."""

GRAMMARS = {
    "C": ("tree_sitter_c", "language"),
    "C#": ("tree_sitter_c_sharp", "language"),
    "C++": ("tree_sitter_cpp", "language"),
    "Go": ("tree_sitter_go", "language"),
    "Java": ("tree_sitter_java", "language"),
    "JavaScript": ("tree_sitter_javascript", "language"),
    "PHP": ("tree_sitter_php", "language_php"),
    "Python": ("tree_sitter_python", "language"),
    "Ruby": ("tree_sitter_ruby", "language"),
    "Rust": ("tree_sitter_rust", "language"),
    "TypeScript": ("tree_sitter_typescript", "language_typescript"),
}
"""Language by its name in a dataset: the library with its grammar, and the function that gives it."""


def anywhere(chunk: str, document: int, draw: random.Random) -> tuple[int, int]:
    """Between any two characters."""
    first, second = sorted((draw.randint(0, len(chunk)), draw.randint(0, len(chunk))))
    return first, second


def between_lines(chunk: str, document: int, draw: random.Random) -> tuple[int, int]:
    """Around whole lines, at least one."""
    edges = [0]
    for line in chunk.splitlines(keepends=True):
        edges.append(edges[-1] + len(line))
    if len(edges) < 3:
        return anywhere(chunk, document, draw)
    first, second = sorted(draw.sample(edges, 2))
    return first, second


@dataclass(frozen=True)
class AroundNodes:
    """Around a named node of the syntax tree; between lines where a file's language has no grammar here.

    Small nodes are by far the most, so a place in the text is drawn first, and then one of the nodes around it.
    """

    languages: Sequence[str] = field(repr=False)

    def __call__(self, chunk: str, document: int, draw: random.Random) -> tuple[int, int]:
        parser = parser_of(self.languages[document])
        if parser is None or not chunk:
            return between_lines(chunk, document, draw)
        text = chunk.encode()
        place = draw.randrange(len(text))
        node: Any = parser.parse(text).root_node.descendant_for_byte_range(place, place)
        around = []
        while node is not None and node.parent is not None:
            if node.is_named and node.start_byte < node.end_byte:
                around.append(node)
            node = node.parent
        if not around:
            return between_lines(chunk, document, draw)
        chosen = draw.choice(around)
        return len(text[: chosen.start_byte].decode()), len(text[: chosen.end_byte].decode())


@cache
def parser_of(language: str) -> Parser | None:
    """The parser of a dataset's language, if there is a grammar for it."""
    if language not in GRAMMARS:
        return None
    from tree_sitter import Language, Parser

    module, function = GRAMMARS[language]
    return Parser(Language(getattr(importlib.import_module(module), function)()))
