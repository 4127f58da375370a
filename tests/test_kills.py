"""Trainings killed at random moments and begun again: they end with the same bits as one that was left alone."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import soak
import training

import nbnn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
ROOT = pathlib.Path(nbnn.__file__).parent.parent
PROGRAM = pathlib.Path(training.__file__)


def begin(kind, folder, *more):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(PROGRAM), kind, str(folder), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


def is_news(line):
    """A line of the training itself."""
    return line.startswith("(") and line.endswith("\n")


def run(kind, folder, *, rng=None):
    """Train in a child until it ends; with rng it is killed soon, or while a checkpoint is written. Its lines, and
    whether it was killed."""
    writing = rng is not None and rng.random() < 0.5
    child = begin(kind, folder, *(["stall"] if writing else []))
    lines, patience = [], (rng.integers(1, 6) if writing else rng.integers(1, 70)) if rng is not None else 0
    for line in child.stdout:
        lines.append(line)
        patience -= line.startswith(training.STALL) if writing else is_news(line)
        if rng is not None and patience <= 0:
            time.sleep(0.02 * rng.random())
            child.kill()
            break
    lines += child.stdout.readlines()
    child.stdout.close()
    return lines, child.wait() != 0


@pytest.mark.parametrize("kind", training.KINDS)
def test_a_training_that_is_killed_ends_with_the_same_bits(kind, tmp_path):
    whole, killed = run(kind, tmp_path / "whole")
    assert not killed
    wanted = [line for line in whole if is_news(line)]
    rng = np.random.default_rng(list(training.KINDS).index(kind))
    kills = soak.times(2, 10)
    done, trainings = 0, 0
    while done < kills:
        folder = tmp_path / f"killed{trainings}"
        trainings += 1
        reached = 0
        while True:
            lines, killed = run(kind, folder, rng=rng if done < kills else None)
            done += killed
            news = [line for line in lines if is_news(line)]
            if news:  # they are those of the whole training, and begin where it had got to or before
                first = wanted.index(news[0])
                assert first <= reached
                assert news == wanted[first : first + len(news)]
                reached = max(reached, first + len(news))
            if not killed:
                break
        assert reached == len(wanted)
        assert lines[-1] == whole[-1] and lines[-1].startswith("outcome ")
    soak.tell(f"kills survived, {kind}", done)
