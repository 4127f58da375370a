"""The command line, as a person runs it."""

import re
import subprocess
import sys

import pytest

import nbnn
from nbnn import data


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    found = subprocess.run(
        [sys.executable, "-m", "nbnn", "demo", "--out", str(folder)], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return folder, found.stdout


def test_the_demo_trains_to_98_5_percent(demo):
    accuracy = float(re.search(r"test accuracy (\d\.\d+)", demo[1]).group(1))
    assert accuracy >= 0.985


def test_the_demo_tells_what_it_does(demo):
    folder, said = demo
    for words in ("conv1     Conv(32, 3, pad=1)", "compiled in", "(Epoch 25 / 25)", str(folder / "digits.safetensors")):
        assert words in said


def test_the_demo_leaves_a_model_and_two_pictures(demo):
    folder, said = demo
    digits = data.digits(num_validation=397, num_test=400)
    found = nbnn.load(folder / "digits.safetensors").evaluate(digits["X_test"], digits["y_test"])
    assert f"test accuracy {found['accuracy']:.4f}" in said
    for name in ("curves.png", "filters.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert (folder / name).stat().st_size > 5000


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "-m", "nbnn", "demo", "--out", str(tmp_path / "file")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert found.returncode == 1
    assert found.stderr.startswith("nbnn: ")
    assert "Traceback" not in found.stderr
