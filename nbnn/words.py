"""How things are said: shapes, tables, and what a misspelt name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import count

_MOST_NAMES = 30  # all ops are fewer, and a sentence with more is not read


def times(shape: Iterable[int], sign: str = " x ") -> str:
    """3 x 32 x 32"""
    return sign.join(map(str, shape))


def hint(word: object, known: Iterable[str], lead: str = "there are") -> str:
    """The nearest known name as a question, or the known ones."""
    names = list(known)
    near = difflib.get_close_matches(str(word), names, 1)
    more = f" and {len(names) - _MOST_NAMES} more" if names[_MOST_NAMES:] else ""
    return f"did you mean {near[0]!r}?" if near else f"{lead} {', '.join(names[:_MOST_NAMES])}{more}"


def align(table: list[list[str]], right: tuple[int, ...] = ()) -> str:
    """A table of texts in columns, its first row the header; the columns in `right` end flush."""
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [cell.rjust(w) if k in right else cell.ljust(w) for k, cell, w in zip(count(), row, widths)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def plain(text: str) -> str:
    """A text that may quote a file, for a sentence: what can be printed of its beginning."""
    return "".join(sign for sign in text[:300] if sign.isprintable())
