"""`nbnn doctor`: every kernel is looked at, and what is wrong is said and ends in an exit code."""

import re
import subprocess
import sys

import pytest

from nbnn import cli, doctor
from nbnn.codegen import TRAIN_KERNELS, _kernels, train_text
from nbnn.kernels import names, reference
from nbnn.lower import lower


def test_between_them_the_nets_and_the_update_rules_call_every_kernel():
    called = {name for graph in doctor.NETS.values() for name in _kernels(lower(graph, lanes=16))}
    assert called | set(TRAIN_KERNELS) == set(names())
    text = train_text("float32")
    assert all(f"launch({name}(" in text for name in TRAIN_KERNELS)


def test_a_healthy_machine():
    found = subprocess.run([sys.executable, "-m", "nbnn", "doctor"], capture_output=True, text=True, timeout=300)
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[-1] == "all is well"
    said = dict(re.split(r"  +", line, maxsplit=1) for line in lines[:-1])
    assert len(said) == len(lines) - 1
    for what in ("nbnn", "numba", "processor", "registers", "compiled code", "1 thread and all", "threads"):
        assert what in said
    for dtype in ("float32", "float64"):
        assert said[f"update rules, {dtype}"].startswith("7 rules, at most ")
        for name in doctor.NETS:
            assert re.match(r"\d+ comparisons, at most \d+% of what is allowed, ", said[f"{name}, {dtype}"])


def run(monkeypatch, capsys, *kept):
    """The exit code and the lines of a doctor who looks at some things only."""
    everything = {
        "about": iter(()),
        "compiled_code": doctor.Finding("compiled code", ""),
        "threads": doctor.Finding("threads", ""),
    }
    for name, value in everything.items():
        if name not in kept:
            monkeypatch.setattr(doctor, name, lambda value=value: value)
    monkeypatch.setattr(doctor, "NETS", {name: doctor.NETS[name] for name in ("gray", "windows")})
    return cli.main(["doctor"]), capsys.readouterr().out.splitlines()


def test_a_slip_in_a_reference_is_found(monkeypatch, capsys):
    """A reference that is off by a thousandth is as good as a kernel that is."""
    right = reference.global_avg_pool_forward

    def slip(x, y):
        right(x, y)
        y *= 1.001

    monkeypatch.setattr(reference, "global_avg_pool_forward", slip)
    code, lines = run(monkeypatch, capsys)
    assert code == 1
    bad = [line for line in lines if line.endswith("<- not well")]
    assert len(bad) == 2 and lines[-1] == "2 of these are not well"
    assert bad[0].startswith("gray, float32") and "computes something else: scores" in bad[0]


def test_a_check_that_breaks_is_a_finding(monkeypatch, capsys):
    def broken():
        raise OSError("no such instruction")

    monkeypatch.setattr(doctor, "same_bits", broken)
    code, lines = run(monkeypatch, capsys)
    assert code == 1 and "OSError: no such instruction   <- not well" in "\n".join(lines)


def test_a_cache_that_cannot_be_used_is_told(monkeypatch, tmp_path):
    from nbnn import cache

    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NBNN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    cache.folder.cache_clear()
    try:
        found = doctor.compiled_code()
    finally:
        cache.folder.cache_clear()
    assert not found.well and "the cache folder cannot be used" in found.found


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    assert doctor.Finding("no-such-package", "absent", False) in list(doctor.about())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_slip_in_a_rule_is_found(monkeypatch, dtype):
    right = reference.update

    def slip(rule, weights, settings, dw, w, *rest):
        right(rule, weights, settings, dw, w, *rest)
        w[-1] *= 1.01

    assert doctor.update_rules(dtype).well
    monkeypatch.setattr(reference, "update", slip)
    assert not doctor.update_rules(dtype).well
