"""A settings file that cannot be read."""

from __future__ import annotations


class Broken(ValueError):
    """What is wrong with a file's text, and where: `line` and `column` count from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(problem)
        self.problem, self.line, self.column = problem, line, column
