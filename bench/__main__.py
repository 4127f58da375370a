"""`python -m bench [sections]`: measures, prints every row when it is there, and stores all as JSON.

`python -m bench [sections] --readme out/bench.json` writes the tables of a stored run into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable
from importlib import metadata

from llvmlite import binding

from bench import contest, cost, course, decisions, layers, report
from bench.nets import NETS
from nbnn.kernels.simd import register_bytes

SECTIONS: dict[str, Callable[[contest.Options], report.Table]] = {
    "nets": contest.nets,
    "layers": layers.layers,
    "naive": layers.against_naive,
    "memory": cost.memory,
    "threads": cost.threads,
    "batches": cost.batches,
    "start": cost.start,
    "avx2": contest.avx2,
    "shares": cost.shares,
    "decisions": decisions.decisions,
    "shapes": course.shapes,
    "neighbours": course.neighbours,
    "course": course.course,
}
PACKAGES = ("numba", "numpy", "torch", "jax", "scikit-learn")
QUICK_NETS = ["course7x7", "mlp"]
ROOT = pathlib.Path(__file__).resolve().parent.parent


def main(words: list[str] | None = None) -> int:
    asked = arguments().parse_args(words)
    if asked.readme:
        told = json.loads(asked.readme.read_text(encoding="utf-8"))
        absent = [s for s in asked.sections if s not in told["sections"]]
        if absent:
            raise SystemExit(f"bench: {asked.readme} has no {', '.join(absent)}; it has {', '.join(told['sections'])}")
        report.rewrite(asked.text, told, asked.sections)
        return 0
    nets = asked.nets.split(",") if asked.nets else QUICK_NETS if asked.quick else list(NETS)
    unknown = [*(n for n in nets if n not in NETS), *(s for s in asked.sections if s not in SECTIONS)]
    if unknown:
        known = f"sections: {', '.join(SECTIONS)}; nets: {', '.join(NETS)}"
        raise SystemExit(f"bench: there is no {', '.join(unknown)}; {known}")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        options = contest.Options(asked.threads, asked.quick, nets, pathlib.Path(folder), asked.data)
        told = about(options)
        print(", ".join(f"{key}: {value}" for key, value in told.items() if key != "sections"), flush=True)
        for name in asked.sections or SECTIONS:
            table = SECTIONS[name](options)
            told["sections"][name] = table.plain()
            told |= table.facts
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps(told, indent=1), encoding="utf-8")  # after each, in case of Ctrl-C
    print(f"\nstored in {asked.out}")
    rows = [row for table in told["sections"].values() for row in table["rows"]]
    return 1 if any(row.get("verdict") == report.verdict(False) for row in rows) else 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"which of {', '.join(SECTIONS)}; all without any")
    parser.add_argument("--nets", help="nets to time, separated by commas")
    parser.add_argument("--quick", action="store_true", help="fewer nets, peers and repetitions")
    parser.add_argument("--threads", type=int, default=cores(), help="for every contestant")
    parser.add_argument("--data", type=pathlib.Path, help="the folder of CIFAR-10, for the course's experiments")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/bench.json"))
    parser.add_argument("--readme", type=pathlib.Path, help="measure nothing; write the tables of this stored run")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "README.md", help="where --readme writes them")
    return parser


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about(options: contest.Options) -> dict:
    """What a result must be read with."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": processor(),
        "cores": cores(),
        "threads": options.threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # of others, before we begin
        "quick": options.quick,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "sections": {},
    }


def processor() -> str:
    """The name of the processor, which may say little, and what LLVM takes its cores for."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    core = f"{binding.get_host_cpu_name()}, registers of {register_bytes()} bytes"
    return f"{named[0] if named else platform.processor() or platform.machine()} ({core})"


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("bench: interrupted; what was finished is stored") from None
