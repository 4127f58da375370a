"""Write each example as a notebook beside it: `python notebooks.py`. A cell begins at a line `# %%`."""

import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = ("layers", "fully_connected", "convnet", "neighbours_and_linear", "search")


def cells(text: str) -> list[tuple[str, str]]:
    """The kind and the text of each cell. The first one is the program's docstring."""
    docstring, *parts = text.split("\n# %%")
    found = [("markdown", docstring.strip().strip('"'))]
    for part in parts:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            found.append(
                ("markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()))
            )
        else:
            found.append(("code", body.strip()))
    return found


def notebook(text: str) -> str:
    """The program as a notebook without outputs."""
    made = []
    for place, (kind, source) in enumerate(cells(text)):
        cell = {"cell_type": kind, "id": f"cell-{place}", "metadata": {}, "source": source.splitlines(keepends=True)}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1) + "\n"


if __name__ == "__main__":
    for name in PROGRAMS:
        text = (HERE / f"{name}.py").read_text(encoding="utf-8")
        (HERE / f"{name}.ipynb").write_text(notebook(text), encoding="utf-8")
