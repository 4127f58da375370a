"""How often the tests of reliability do harm: a little in `make test`, all of it in `make soak`.

`make soak` sets NBNN_SOAK=1, which raises the counts, and NBNN_FIGURES to a file that collects what was counted;
`python tests/soak.py FILE` writes those figures into docs/reliability.md.
"""

import json
import os
import pathlib
import sys
import time
from typing import Any

SOAKING = os.environ.get("NBNN_SOAK") == "1"
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- soak -->", "<!-- /soak -->"


def times(reduced: Any, full: Any) -> Any:
    """How often to do something, or what to do it to."""
    return full if SOAKING else reduced


def tell(what: str, number: float) -> None:
    """Note a figure, such as tell("damaged files read", 20000)."""
    path = os.environ.get("NBNN_FIGURES")
    if path:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps([what, number]) + "\n")


def table(lines: list[str]) -> str:
    """The figures of a run; of one that was noted twice, the last. Those that are alike but for what stands behind a
    comma are added up too."""
    figures = dict(json.loads(line) for line in lines)
    families: dict[str, list[int]] = {}
    for what, number in figures.items():
        if ", " in what and isinstance(number, int):
            families.setdefault(what.split(", ")[0], []).append(number)
    figures |= {f"{what}, in all": sum(numbers) for what, numbers in families.items() if len(numbers) > 1}
    rows = [f"| {what} | {figures[what]:,} |" for what in sorted(figures)]
    return "\n".join(
        [f"Counted by `make soak` on {time.strftime('%Y-%m-%d')}:", "", "| what | how many |", "|---|---|", *rows]
    )


def main(path: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    PAGE.write_text(f"{before}{BEGIN}\n{table(lines)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
