"""All rules by name, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Iterable

from serve.postprocessing import endings, indentation, lines, noise, scope, stutter
from serve.postprocessing.pipeline import Pipeline
from serve.postprocessing.rule import Rule

ALL: Pipeline = (
    Rule("control", noise.control),
    Rule("column", indentation.column),
    Rule("tabs", indentation.tabs),
    Rule("one-line", endings.one_line),
    Rule("scope", scope.scope),
    Rule("suffix-lines", lines.suffix_lines),
    Rule("echo", lines.echo),
    Rule("loop", lines.loop),
    Rule("stutter", stutter.stutter),
    Rule("whole-lines", endings.whole_lines),
    Rule("overlap", endings.overlap),
    Rule("trailing", endings.trailing),
    Rule("noise", noise.noise),
)
NAMES = tuple(rule.name for rule in ALL)


def without(names: Iterable[str]) -> Pipeline:
    """All rules but those of these names."""
    left_out = frozenset(names)
    return tuple(rule for rule in ALL if rule.name not in left_out)
