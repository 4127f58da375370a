"""How results are said: cells, verdicts, tables that grow row by row, and the README's copy of them."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from nbnn.check import relative_error
from nbnn.words import align

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
NO_PEER = "no peer"  # a goal that cannot be looked at: all whom it names are absent
TOLERANCE = 1e-4  # of results in float32, relative to the largest number


def agreed(found: Any, wanted: Any) -> tuple[float, bool]:
    """The residual, and whether it is small enough; a NaN is not."""
    error = relative_error(found, wanted)
    return error, bool(error <= TOLERANCE)


def least(found: float | None, goal: float | None) -> str | None:
    """What is missing where `found` should be at least `goal`; nothing where there is no goal."""
    if goal is None or (found is not None and found >= goal):
        return None
    return f"short of {goal:g}" if found is not None else NO_PEER


def most(found: float | None, goal: float | None) -> str | None:
    """The same where `found` should be at most `goal`."""
    if goal is None or (found is not None and found <= goal):
        return None
    return f"over {goal:g}" if found is not None else NO_PEER


def verdict(right: bool, *missed: str | None) -> str:
    """What a row comes to. A wrong result has no time, so nothing else is said of it."""
    return ", ".join(filter(None, missed)) or "ok" if right else "WRONG"


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    logs = [math.log(v) for v in values if v]
    return math.exp(sum(logs) / len(logs)) if logs else None


def best(values: dict[str, float | None], names: Iterable[str]) -> float | None:
    """The least of those that are there."""
    return min((v for name in names if (v := values.get(name)) is not None), default=None)


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def cell(value: Any) -> str:
    """A number with three digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    return str(value)


@dataclass
class Table:
    """One section: `columns` are names and widths, the first column and the verdict at the end stand to the left."""

    title: str
    columns: dict[str, int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # about the machine, found on the way

    def begin(self) -> Table:
        header = self._line(list(self.columns))
        print(f"\n{self.title}\n\n{header}\n{'-' * len(header)}", flush=True)
        return self

    def add(self, **row: Any) -> None:
        """A row is printed when it is there; what has no column is kept in the JSON alone."""
        self.rows.append(row)
        print(self._line([cell(row.get(c)) for c in self.columns]), flush=True)

    def note(self, text: str) -> None:
        """Said once."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"  {text}", flush=True)

    def _line(self, cells: list[str]) -> str:
        widths = [max(len(c), w) for c, w in self.columns.items()]
        left = {0, len(cells) - 1}
        words = [c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "  ".join(words).rstrip()

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def markdown(told: dict[str, Any], sections: Iterable[str] = ()) -> str:
    """The tables of a stored run, or some of them, with what they were measured on. Columns that are empty are left
    out."""
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version != "absent")
    head = (
        f"Printed on {told['date']} with {told['threads']} threads on {told['cores']} cores of {told['machine']}; "
        f"{versions}."
    )
    if told.get("limit_gflops"):
        head += f" One core has {told['limit_gflops']:.0f} GFLOP/s in its registers."
    parts = [head]
    for section in sections or told["sections"]:
        table = told["sections"][section]
        names = [c for c in table["columns"] if any(cell(row.get(c)) != "-" for row in table["rows"])]
        text = align(
            [names, *([cell(row.get(c)) for c in names] for row in table["rows"])],
            right=tuple(range(1, len(names) - 1)),
        )
        parts.append("\n".join([f"{table['title']}:", "", "```", text, *table["notes"], "```"]))
    return "\n\n".join(parts)


def rewrite(path: pathlib.Path, told: dict[str, Any], sections: Iterable[str] = ()) -> None:
    """Put the tables between the two marks of a text file; all else stays."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path} needs one line {BEGIN} and, below it, one line {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{markdown(told, sections)}\n{END}{after}", encoding="utf-8")
