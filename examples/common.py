"""What the examples share: their options, their pictures, and where their figures go.

The examples run as programs and as notebooks. A notebook has no command line, so options may also stand in the
environment: NBNN_EXAMPLES="--data DIR --small".
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import sys

import numpy as np

from nbnn import data

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IN_NOTEBOOK = "ipykernel" in sys.modules


class Run:
    """One run of an example: its pictures as the course names them, float32, the mean picture subtracted."""

    def __init__(self, name: str, description: str) -> None:
        parser = argparse.ArgumentParser(
            prog=f"{name}.py", description=description.strip().splitlines()[0], allow_abbrev=False
        )
        parser.add_argument("--data", metavar="DIR", help="the folder of CIFAR-10; without it pictures are made")
        parser.add_argument(
            "--out", metavar="DIR", default=f"out/{name}", help="for the figures (default: %(default)s)"
        )
        parser.add_argument("--small", action="store_true", help="few pictures and few steps: does it run?")
        words = shlex.split(os.environ.get("NBNN_EXAMPLES", ""))
        options = parser.parse_args([*words, *([] if IN_NOTEBOOK else sys.argv[1:])])
        self.small: bool = options.small
        self.real = options.data is not None
        self.out = pathlib.Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self._folder = options.data

    def pictures(self, *, train: int | None = None, validation: int = 1000, centred: bool = True) -> dict:
        """X_train, y_train, X_val, y_val, X_test, y_test; pictures (N, 3, 32, 32). `train` keeps that many of the
        training pictures; not `centred`, the numbers are pixels from 0 to 255."""
        if self._folder is not None:
            found = self._read(centred)
        else:
            print("no --data DIR: made pictures stand in for CIFAR-10, so accuracies say nothing about it")
            found = dict(
                data.synthetic(num_train=1000 if self.small else 10000, num_val=1000, num_test=1000, noise=2.0)
            )
            mean = found["X_train"].mean(axis=0)
            for key in ("X_train", "X_val", "X_test"):
                found[key] = 40 * (found[key] - mean) if centred else (128 + 30 * found[key]).clip(0, 255).round()
        if self.small:
            train, validation = min(train or 500, 500), 200
        sizes = {"train": train, "val": validation, "test": validation}
        return {
            f"{letter}_{part}": np.asarray(found[f"{letter}_{part}"][:size], np.float32 if letter == "X" else np.int64)
            for part, size in sizes.items()
            for letter in "Xy"
        }

    def _read(self, centred: bool) -> dict:
        from nbnn.course.data_utils import get_CIFAR10_data

        try:
            return get_CIFAR10_data(self._folder, subtract_mean=centred)
        except (OSError, ValueError) as problem:
            raise SystemExit(str(problem)) from None

    def figure(self, path: pathlib.Path) -> None:
        """Say where a figure is; a notebook shows it."""
        print(f"figure: {path}")
        if IN_NOTEBOOK:
            from IPython.display import Image, display

            display(Image(filename=str(path)))
