"""The command line: `nbnn demo` trains a small convnet on the digits and shows what came of it, `nbnn doctor` says
whether all is well on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
import time
from typing import TextIO


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code says whether it went well."""
    parser = argparse.ArgumentParser(prog="nbnn", description="Train small neural nets fast on a CPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("demo", help="train a small convnet on 1797 pictures of digits")
    shown.add_argument("--out", default="out", help="the folder for the model and the pictures (default: out)")
    shown.add_argument("--epochs", type=int, default=25)
    shown.add_argument("--seed", type=int, default=0)
    commands.add_parser("doctor", help="look at the installation and hold every kernel to its reference")
    options = parser.parse_args(argv)
    try:
        if options.command == "doctor":
            return doctor()
        return demo(pathlib.Path(options.out), options.epochs, options.seed)
    except (OSError, ValueError, ImportError) as problem:
        say(f"nbnn: {problem}", sys.stderr)
        return 1


def say(line: str = "", stream: TextIO | None = None) -> None:
    """The one place where the command line prints."""
    print(line, file=stream or sys.stdout, flush=True)


def doctor() -> int:
    """Every finding; the exit code says whether all is well."""
    from nbnn.doctor import findings

    bad = 0
    for finding in findings():
        say(str(finding))
        bad += not finding.well
    say("all is well" if not bad else f"{bad} of these {'is' if bad == 1 else 'are'} not well")
    return 1 if bad else 0


def demo(out: pathlib.Path, epochs: int, seed: int) -> int:
    """Digits, a convnet with batchnorm and dropout, live progress, the test accuracy, a saved model and two
    pictures."""
    import nbnn
    from nbnn import Affine, BatchNorm, Conv, Dropout, MaxPool, ReLU, data, plots

    out.mkdir(parents=True, exist_ok=True)
    graph = nbnn.Graph(
        [
            Conv(32, 3, pad=1),
            BatchNorm(),
            ReLU(),
            Conv(32, 3, pad=1),
            BatchNorm(),
            ReLU(),
            MaxPool(2),
            Conv(64, 3, pad=1),
            BatchNorm(),
            ReLU(),
            MaxPool(2),
            Dropout(0.3),
            Affine(128),
            ReLU(),
            Dropout(0.3),
            Affine(10),
        ],
        input=(1, 8, 8),
        loss="softmax",
    )
    say(f"{graph}\n")
    digits = data.digits(num_validation=397, num_test=400, seed=seed)
    model = nbnn.compile(graph, batch=100, seed=seed)
    begun = time.perf_counter()
    model.prepare()
    say(f"compiled in {time.perf_counter() - begun:.1f} s; the next run finds the compiled step on disk\n")
    solver = nbnn.Solver(
        model,
        digits,
        update_rule="adamw",
        optim_config={"learning_rate": 3e-3},
        batch_size=100,
        num_epochs=epochs,
        print_every=100,
        schedule={"schedule": "cosine", "warm_up": 20},
        sampling="epoch",
        seed=seed,
        log=say,
    )
    begun = time.perf_counter()
    solver.train()
    taken = time.perf_counter() - begun
    found = model.evaluate(digits["X_test"], digits["y_test"])
    say(f"\ntrained {solver.iteration} steps of 100 examples in {taken:.1f} s")
    say(f"test accuracy {found['accuracy']:.4f} on {len(digits['y_test'])} pictures that training never saw")
    model.save(out / "digits.safetensors")
    say(f"the model is in {out / 'digits.safetensors'}")
    if importlib.util.find_spec("matplotlib") is None:
        say('no pictures were drawn: they need matplotlib, pip install "nbnn[plots]"')
        return 0
    say(f"the curves of loss and accuracy are in {plots.curves(solver, out / 'curves.png')}")
    say(f"the filters of the first layer are in {plots.filters(model.params['conv1.w'], out / 'filters.png')}")
    return 0
