"""The README's code runs, and its map is true."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) == 4
    said = ""
    for number, block in enumerate(blocks):
        exec(compile(block, f"README block {number + 1}", "exec"), space)
        said += capsys.readouterr().out if number == 0 else ""
    printed = re.search(r"prints\n\n```\n(.*?)```", TEXT, re.S).group(1)

    def shape(text):
        """The lines with their measured numbers left out: those differ in the last digits from machine to machine."""
        return [re.sub(r"\d+\.\d+|\[[\d ]+\]", "#", line) for line in text.splitlines()]

    assert shape(said) == shape(printed)
    assert float(re.search(r"'accuracy': ([\d.]+)", said).group(1)) > 0.95


def test_the_code_for_those_who_come_from_the_course_runs(tmp_path):
    """In a process of its own, because it gives modules other names."""
    text = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    program = f"{block}\nassert FullyConnectedNet and conv_forward_fast and Solver and ThreeLayerConvNet"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True)


@pytest.mark.parametrize("folder", ["nbnn", "kernels"])
def test_the_map_names_every_module(folder):
    for path in sorted((ROOT / folder).glob("*.py")):
        if path.name != "__init__.py":
            assert f"`{folder}/{path.name}`" in TEXT or f"`{path.name}`" in TEXT, (
                f"What's where does not name {folder}/{path.name}"
            )


def test_the_map_names_nothing_that_is_gone():
    table = TEXT[TEXT.index("## What's where") : TEXT.index("## Adding an op")]
    for name in re.findall(r"`((?:nbnn|kernels|tests|bench)/[\w/]*(?:\.py)?)`", table):
        assert (ROOT / name).exists(), name


def test_the_tests_that_are_promised_are_there():
    """docs/reliability.md names files, and functions of the file named last."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    source, count = "", 0
    for file, function in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", text):
        if file:
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        if function:
            assert f"def {function}(" in source, function
            count += 1
    assert count > 40
