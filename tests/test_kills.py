"""Trainings killed at random moments and begun again: they end with the same bits as one that was left alone."""

import math
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soak
import training
from safetensors.numpy import load_file

import nbnn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
ROOT = pathlib.Path(nbnn.__file__).parent.parent
PROGRAM = pathlib.Path(training.__file__)
SAID = ("(", "Going on from ", "outcome ", training.HELD)  # how lines begin as long as all is well
# When a training is killed, one moment after the other: soon after it has begun; while it writes, when half of a file
# is there, all of it, and when it is on the disk; at a line; soon after it has begun to go on. `first` is the time
# until the first line. After four lines there is a checkpoint to go on from.
MOMENTS = {
    "start": lambda rng, first: first * rng.random(),
    **{f"write {stage}": lambda rng, first, stage=stage: 4 * rng.integers(0, 8) + stage for stage in (1, 2, 3)},
    "line": lambda rng, first: rng.uniform(4, 70),
    "resume": lambda rng, first: first * rng.random(),
}


def begin(kind, folder, *more):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(PROGRAM), kind, str(folder), *more]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def is_news(line):
    """A line of the training itself."""
    return line.startswith("(") and line.endswith("\n")


def run(kind, folder, moment=None, at=0.0):
    """Train in a child until it ends or is killed: after `at` seconds, at that step of writing, or at that line and
    soon. Its lines, whether it was killed, and the seconds until the first line."""
    writes = moment is not None and moment.startswith("write")
    child = begin(kind, folder, *([str(at)] if writes else []))
    begun, first, lines, killed = time.monotonic(), math.inf, [], False
    try:
        if moment in ("start", "resume"):
            select.select([child.stdout], [], [], at)
            child.kill()
            killed = True
        for line in child.stdout:
            first = min(first, time.monotonic() - begun)
            lines.append(line)
            if moment == "line" and len(lines) == int(at):
                time.sleep(0.02 * (at % 1))
            elif not (writes and line.startswith(training.HELD)):
                continue
            child.kill()
            killed = True
        code = child.wait()
    finally:
        child.kill()
        child.stdout.close()
    right = all(line.startswith(SAID) for line in lines) and (code == 0 or (killed and code == -signal.SIGKILL))
    assert right, f"the training ended with {code}:\n{''.join(lines)}"
    return lines, code != 0, first


def checkpoints(folder):
    return set(folder.glob("[0-9]*.safetensors"))


def begun_files(folder):
    """What a checkpoint or the best model is written to before it gets its name."""
    return set(folder.glob(".*.safetensors.*"))


def hits(moment, lines, new_files):
    """Whether a kill came when it was meant to."""
    return not lines if moment in ("start", "resume") else moment == "line" or bool(new_files)


def reach(lines, wanted, reached):
    """How far a training has got: its lines are those of the whole one, from where it had got to or before."""
    news = [line for line in lines if is_news(line)]
    if not news:
        return reached
    begun = wanted.index(news[0])
    assert begun <= reached
    assert news == wanted[begun : begun + len(news)]
    return max(reached, begun + len(news))


@pytest.mark.parametrize("kind", training.KINDS)
def test_a_training_that_is_killed_ends_with_the_same_bits(kind, tmp_path):
    whole, killed, first = run(kind, tmp_path / "whole")
    assert not killed
    wanted = [line for line in whole if is_news(line)]
    rng = np.random.default_rng(list(training.KINDS).index(kind))
    soonest = dict.fromkeys(MOMENTS, first)
    kills, hit, trainings = 0, dict.fromkeys(MOMENTS, 0), 0
    for moments in [list(MOMENTS) for _ in range(soak.times(1, 3))]:
        while moments:  # a training that ends before it is killed is followed by another one
            folder, reached, killed = tmp_path / f"killed{trainings}", 0, True
            trainings += 1
            while killed:
                moment = moments[0] if moments else None
                there, half = checkpoints(folder), begun_files(folder)
                assert there or moment != "resume"
                assert kills + trainings < soak.times(40, 120), f"kills miss: {moment}"
                at = MOMENTS[moment](rng, soonest[moment]) if moment else 0.0
                lines, killed, first = run(kind, folder, moment, at)
                reached = reach(lines, wanted, reached)
                for path in folder.glob("[!.]*.safetensors"):  # what has its name is whole
                    load_file(path)
                if there and lines:
                    assert lines[0].startswith("Going on from ")
                if moment:
                    soonest[moment] = min(soonest[moment], first)
                if killed:
                    kills += 1
                    if hits(moment, lines, begun_files(folder) - half):
                        hit[moments.pop(0)] += 1
            assert reached == len(wanted)
            assert lines[-1] == whole[-1] and lines[-1].startswith("outcome ")
            assert not begun_files(folder)
    in_writes = sum(hit[moment] for moment in hit if moment.startswith("write"))
    assert kills >= sum(hit.values()) >= soak.times(6, 18) and in_writes >= soak.times(3, 9)
    soak.tell(f"kills survived, {kind}", kills)
    soak.tell(f"kills in the middle of writing a checkpoint, {kind}", in_writes)
    soak.tell(f"kills before the first line, {kind}", hit["start"] + hit["resume"])


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("raise KeyError('broken')", "(?s)^the training ended with 1:.*KeyError: 'broken'"),
        ("import os; os.kill(os.getpid(), 9)", "^the training ended with -9:"),
        ("print('00000005.safetensors is damaged')", r"^the training ended with 0:\s+00000005.safetensors is damaged"),
    ],
)
def test_a_training_that_ends_otherwise_fails_with_what_it_has_said(program, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", tmp_path / "broken.py")
    PROGRAM.write_text(program)
    with pytest.raises(AssertionError, match=sentence):
        run("vectors", tmp_path)


@pytest.mark.parametrize(("moment", "at"), [("start", 60), ("write 1", 1), ("line", 1)])
def test_a_training_that_breaks_before_it_is_killed_fails(moment, at, tmp_path):
    with pytest.raises(AssertionError, match=r"^the training ended with (1|-9):\s+Traceback"):
        run("no such kind", tmp_path, moment, at)
