"""The examples: as notebooks they are the programs, and both run on few pictures."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

import nbnn

ROOT = pathlib.Path(nbnn.__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
FIGURES = {
    "layers": ["differences"],
    "fully_connected": ["rules", "batchnorm", "dropout", "curves", "confusion"],
    "convnet": ["few", "one_epoch", "fifteen_epochs", "filters", "confusion"],
    "neighbours_and_linear": ["neighbours", "LinearSVM", "Softmax", "confusion"],
    "search": ["search", "curves", "filters", "confusion"],
}


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = loaded("notebooks")


def run(command, words, out):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NBNN_EXAMPLES": f"{words} --out {out}", "MPLBACKEND": "agg"}
    return subprocess.run(command, cwd=EXAMPLES, env=env, capture_output=True, text=True)


def test_every_example_is_known():
    programs = {path.stem for path in EXAMPLES.glob("*.py")} - {"common", "notebooks"}
    assert programs == set(notebooks.PROGRAMS) == set(FIGURES) == {path.stem for path in EXAMPLES.glob("*.ipynb")}


@pytest.mark.parametrize("name", notebooks.PROGRAMS)
def test_a_notebook_is_its_program(name):
    """`python examples/notebooks.py` makes it so."""
    written = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    assert written == notebooks.notebook((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    found = json.loads(written)["cells"]
    assert [c["cell_type"] for c in found[:3]] == ["markdown", "markdown", "code"]
    code = ["".join(c["source"]) for c in found if c["cell_type"] == "code"]
    assert all(text in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8") for text in code)


EXECUTE = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(notebook)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text", ""), end="")
        print("image" if "image/png" in output.get("data", {}) else "", end="")
"""


@pytest.mark.parametrize("name", notebooks.PROGRAMS)
def test_a_notebook_runs_and_draws_its_figures(name, tmp_path):
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
    found = run([sys.executable, "-c", EXECUTE, f"{name}.ipynb"], "--small", tmp_path)
    assert found.returncode == 0, found.stderr[-2000:]
    assert {path.stem for path in tmp_path.glob("*.png")} == set(FIGURES[name])
    assert found.stdout.count("figure: ") == len(FIGURES[name]) and found.stdout.count("image") >= len(FIGURES[name])
    if name != "layers":
        assert "no --data DIR: made pictures stand in for CIFAR-10" in found.stdout


def test_a_program_runs_and_says_what_it_does_not_know(tmp_path):
    found = run([sys.executable, "layers.py"], "--small", tmp_path)
    assert found.returncode == 0 and "max pool, fast" in found.stdout, found.stderr[-2000:]
    wrong = run([sys.executable, "search.py", "--dat", "x"], "--small", tmp_path)
    assert wrong.returncode == 2 and "unrecognized arguments: --dat x" in wrong.stderr
    nowhere = run([sys.executable, "convnet.py", "--data", str(tmp_path / "nowhere")], "--small", tmp_path)
    assert nowhere.returncode == 1 and str(tmp_path / "nowhere") in nowhere.stderr.splitlines()[-1]
    assert "Traceback" not in nowhere.stderr
