"""The first line goes on at the cursor's column, and lines are indented as the file's are.

These two rules rewrite blanks at the beginning of lines, so that their result is no prefix of the completion.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from serve.postprocessing.cursor import Cursor, indentation
from serve.postprocessing.rule import Ending, Kept

BLOCK_OPENERS = tuple(":{([")
COMMENTS = ("#", "//")
BLANK_LINES = 2
"""Blank lines in a row that are left at the top level."""
LEAD = re.compile(r"^[ \t]+", re.MULTILINE)


def column(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Drop blanks and empty lines that the completion begins with although the cursor stands behind them already."""
    body = text.lstrip(" \t\r\n")
    lead = text[: len(text) - len(body)]
    if not body or (ending is None and body == "/"):
        return Kept(text if ending else "")
    return Kept(_lead(cursor, lead, body) + body)


def tabs(cursor: Cursor, text: str, ending: Ending | None) -> Kept:
    """Indent lines after the first with tabs in a file that does so, and with spaces in one that does not."""
    leads = [lead for side in (cursor.before, cursor.after) for lead in LEAD.findall(side)]
    tabbed = sum(lead[0] == "\t" for lead in leads)
    if not leads or 0 < tabbed < len(leads):
        return Kept(text)
    unit = "\t" if tabbed else " " * _unit(leads)
    lines = text.split("\n")
    done = [lines[0]]
    for number, line in enumerate(lines[1:], 1):
        body = line.lstrip(" \t")
        if not body and number == len(lines) - 1 and ending is None:
            return Kept("\n".join([*done, ""]))
        lead = line[: len(line) - len(body)]
        if unit == "\t" and lead and "\t" not in lead:
            lead = "\t" * max(round(len(lead) / 4), 1)
        elif unit != "\t":
            lead = lead.replace("\t", unit)
        done.append(lead + body)
    return Kept("\n".join(done))


def _lead(cursor: Cursor, lead: str, body: str) -> str:
    """What is left of the blanks before `body`."""
    newlines, last = lead.count("\n"), lead[lead.rfind("\n") + 1 :]
    if not cursor.on_blank_line:
        return lead if newlines or not cursor.line_before[-1].isspace() or body.startswith(COMMENTS) else ""
    if newlines and not cursor.line_before:
        before = len(cursor.before) - len(cursor.before.rstrip("\n"))
        room = BLANK_LINES + 1 - before if before < len(cursor.before) else 0
        return "\n" * min(newlines, max(room, 0)) + last
    if newlines:
        if indentation(last + ".") < indentation(cursor.line_before + "."):
            return lead
        last = last.removeprefix(cursor.line_before)
    if not cursor.line_before or not last:
        return last
    above = cursor.lines_before[-1] if cursor.lines_before else ""
    deeper = above.endswith(BLOCK_OPENERS) and indentation(above) >= indentation(cursor.line_before + ".")
    return last if deeper else ""


def _unit(leads: list[str]) -> int:
    """The spaces of one level: the step that is commonest between lines."""
    widths = [len(lead) for lead in leads]
    steps = Counter(abs(one - other) for one, other in pairwise(widths) if one != other)
    return min(steps.most_common(1)[0][0] if steps else min(widths), 8)
